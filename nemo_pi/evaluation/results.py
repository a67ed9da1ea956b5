"""The results of one evaluated model by task name, and their file results.json."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_pi.bounded.files import read_bytes
from nemo_pi.bounded.json_text import MOST_JSON_BYTES, parse_json
from nemo_pi.errors import DataError, NemoPiError
from nemo_pi.evaluation.tasks.base import TaskResult
from nemo_pi.evaluation.tasks.registry import task_type

FORMAT = "nemo_pi evaluation 2"
FORMAT_1 = "nemo_pi evaluation 1"
"""Perplexity and passkey as columns of a row; still read."""


@dataclass(frozen=True)
class ModelResults:
    """What was measured of one model."""

    name: str
    """What the report calls it."""
    original_window: int
    """Tokens the model was pretrained on."""
    target_window: int
    """Tokens it is evaluated up to."""
    tasks: dict[str, TaskResult] = field(default_factory=dict)
    """Task name → its result; only tasks that were run."""
    origin: dict[str, dict[str, str]] = field(default_factory=dict, compare=False)
    """Where the numbers come from, for the report: a heading (`Model`, `Plan`, `Environment`) → what → what
    it was. Results that differ in nothing else are equal."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        content = {**vars(self), "tasks": {name: result.to_json() for name, result in self.tasks.items()}}
        return content if self.origin else {k: v for k, v in content.items() if k != "origin"}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> ModelResults:
        """Read what `to_json` returned.

        Raises:
            DataError: not such content. ConfigError: a task that is not known here.
        """
        try:
            results = {
                name: task_type(name).result_type.from_json(result)
                for name, result in content["tasks"].items()
            }
            model = cls(**{**content, "tasks": results})
            if not isinstance(model.name, str) or not all(
                type(tokens) is int for tokens in (model.original_window, model.target_window)
            ):
                raise TypeError("a name or a window of another type")
            if not all(
                isinstance(text, str) for facts in model.origin.values() for text in (*facts, *facts.values())
            ):
                raise TypeError("an origin that is not made of texts")
            return model
        except NemoPiError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _foreign(error) from error


def write_results(models: Sequence[ModelResults], path: str | Path) -> Path:
    """Write results as one JSON file, whole or not at all, and return its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"format": FORMAT, "models": [model.to_json() for model in models]}
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    # A name for this process alone: two that write the same results must not share a draft.
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def read_results(path: str | Path) -> list[ModelResults]:
    """Read a file that `write_results` wrote, of this format or the one before.

    Raises:
        DataError: no such file, not JSON, or of another format.
        ConfigError: it holds a task that is not known here.
    """
    try:
        content = parse_json(read_bytes(Path(path), MOST_JSON_BYTES))
        found = content["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        found, content = f"{type(error).__name__}: {error}", {}
    if found in (FORMAT, FORMAT_1):
        entries = content.get("models" if found == FORMAT else "rows")
        if not isinstance(entries, list):
            raise _foreign(TypeError(f"no list of models in {path}"))
        return [ModelResults.from_json(entry if found == FORMAT else _from_row(entry)) for entry in entries]
    raise DataError(
        str(path), required=f"a results file of format {FORMAT!r}", given=found, fix="run the evaluation"
    )


def _from_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row of format 1 as format 2 writes it; k_max follows from the passkey counts."""
    try:
        rest = {**row}
        protocol, perplexity, passkey = (rest.pop(key) for key in ("protocol", "perplexity", "passkey"))
        k_max, tasks = rest.pop("k_max"), {}
        if perplexity:
            tasks["perplexity"] = {"protocol": protocol.get("perplexity", {}), "by_length": perplexity}
        if passkey:
            tasks["passkey"] = {"protocol": protocol.get("passkey", {}), "grid": passkey, "k_max": k_max}
        return {**rest, "tasks": tasks}
    except (KeyError, TypeError, AttributeError) as error:
        raise _foreign(error) from error


def _foreign(error: Exception) -> DataError:
    return DataError(
        "evaluation results",
        required="results written by nemo_pi",
        given=f"{type(error).__name__}: {error}",
        fix="run the evaluation again",
    )
