"""Which stage of a run a checkpoint belongs to, and so where a run with stages goes on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from nemo_pi.checkpoint.manifest import read_manifest
from nemo_pi.config.resolved import ResolvedRun, Stage
from nemo_pi.config.stages import respelled
from nemo_pi.errors import ConfigError, NemoPiError

RECORD = "stage"
"""Where the manifest of a checkpoint keeps it; runs without stages leave it out of account."""

_AGAIN = "set it back, or give this run another name; restore_from_path starts a new run from these weights"


def record_of(stage: Stage) -> dict[str, Any]:
    """What a checkpoint keeps of its stage, JSON-ready; nothing where a run has one only."""
    if stage.count == 1:
        return {}
    return {"number": stage.number, "first_step": stage.first_step, "first_sample": stage.first_sample}


def recorded_stage(folder: Path) -> int:
    """Number of the stage, from 0, that the checkpoint in `folder` was saved in."""
    return _number(_record(read_manifest(folder)))


def stage_of(stages: Sequence[ResolvedRun], folder: Path) -> int:
    """Number of the stage that a checkpoint belongs to, which is where the run goes on.

    Where that one is done and its export written, the next one follows from there.

    Raises:
        ConfigError: the stages before it are not those that it was trained in.
    """
    manifest = read_manifest(folder)
    record = _record(manifest)
    number = _number(record)
    if number >= len(stages):
        raise ConfigError(
            "stages",
            required=f"at least {number + 1} stages: {folder} was saved in the last of them",
            given=f"{len(stages)}" if stages[0].stage.count > 1 else "none",
            fix=_AGAIN,
        )
    stage, step = stages[number].stage, manifest["global_step"]
    for key, keys in (("first_step", "max_steps"), ("first_sample", "steps, batches, lengths and data")):
        given = getattr(stage, key)
        if record.get(key, given) != given:
            what = key.replace("_", " ")
            raise ConfigError(
                f"stages before stages[{number}]",
                required=f"{keys} that give it {what} {record[key]}, as {folder} was trained",
                given=f"{what} {given}",
                fix=_AGAIN,
            )
    if step > stages[number].last_step and number + 1 < len(stages):
        raise ConfigError(
            f"stages[{number}].max_steps",
            required=f"at least {step - stage.first_step}: {folder} is so far in it",
            given=stages[number].max_steps,
            fix=f"stages.{number}.max_steps={step - stage.first_step}, or give this run another name",
        )
    return number


@contextmanager
def named_by_stage(stages: Sequence[ResolvedRun], run: ResolvedRun) -> Iterator[None]:
    """Errors inside name the keys of a stage, unless all stages have the same value there."""
    try:
        yield
    except NemoPiError as error:
        if len(stages) == 1 or _alike(stages, error):
            raise
        raise respelled(error, run.stage.number) from error


def _alike(stages: Sequence[ResolvedRun], error: NemoPiError) -> bool:
    """Whether what an error names is the same in all stages."""
    configs = [{"model": asdict(run.config.model), "trainer": run.config.trainer} for run in stages]
    keys = re.findall(r"\b(?:model|trainer)(?:\.\w+)+", error.field)
    return all(_at(config, key) == _at(configs[0], key) for config in configs for key in keys)


def _at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def ids_once(stages: Sequence[ResolvedRun]) -> Iterator[ResolvedRun]:
    """The stages, without the reading of all token ids where a stage before reads the same files."""
    seen: list[Any] = []
    for run in stages:
        files = run.data.data_prefix
        yield replace(run, data=replace(run.data, check_token_ids=False)) if files in seen else run
        if run.data.check_token_ids:
            seen.append(files)


def _record(manifest: Mapping[str, Any]) -> dict[str, Any]:
    found = manifest.get(RECORD)
    return found if isinstance(found, dict) else {}


def _number(record: Mapping[str, Any]) -> int:
    number = record.get("number", 0)
    return number if isinstance(number, int) and number >= 0 else 0
