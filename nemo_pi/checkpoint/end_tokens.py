"""Which tokens end a generated text, as a checkpoint of either kind says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemo_pi.checkpoint.files import read_json
from nemo_pi.checkpoint.hf.tokenizer import GENERATION_CONFIG
from nemo_pi.checkpoint.manifest import MANIFEST, read_manifest
from nemo_pi.errors import CheckpointError

_KEY = "eos_token_id"


def stated_end_ids(path: str | Path) -> tuple[int, ...]:
    """The `eos_token_id` of generation_config.json, else of config.json; empty where neither names any.

    Chat models name several there, the end of a turn among them, while their tokenizer knows one.

    Args:
        path: a Hugging Face folder, or a distributed checkpoint, which keeps what its source said.

    Raises:
        CheckpointError: an entry that is neither an id nor a list of ids.
    """
    for place, config in _configurations(Path(path).expanduser()).items():
        value = config.get(_KEY)
        given = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(each, int) and not isinstance(each, bool) for each in given):
            raise CheckpointError(
                f"{place}: {_KEY}",
                required="a token id, a list of them, or null",
                given=repr(value),
                fix="correct this entry",
            )
        if ids := tuple(dict.fromkeys(each for each in given if each >= 0)):  # -1 stands for none
            return ids
    return ()


def _configurations(folder: Path) -> dict[str, Mapping[str, Any]]:
    """What stands in both files, the one that decides first."""
    if (folder / MANIFEST).is_file():
        source = read_manifest(folder).get("source_config")
        parts = source if isinstance(source, dict) else {}
        kept = {name: parts.get(name) for name in ("generation_config", "config")}
        return {f"{folder / MANIFEST}: {name}": part for name, part in kept.items() if isinstance(part, dict)}
    files = (folder / GENERATION_CONFIG, folder / "config.json")
    return {str(file): read_json(file) for file in files if file.is_file()}
