"""The folder an export writes: whether it may be written, and every file in it but the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nemo_pi.checkpoint.files import read_json, write_json
from nemo_pi.checkpoint.hf.config import extension_from_config, shape_from_config
from nemo_pi.checkpoint.hf.config_write import build_config
from nemo_pi.checkpoint.hf.source import HuggingFaceSource
from nemo_pi.checkpoint.hf.tokenizer import (
    GENERATION_CONFIG,
    copy_tokenizer,
    extended_generation_config,
    special_token_ids,
)
from nemo_pi.errors import CheckpointError
from nemo_pi.families.inert import without_code
from nemo_pi.families.registry import family_of_config
from nemo_pi.families.shape import ModelShape
from nemo_pi.rope.spec import ContextExtension

MARKER = "nemo_pi_export.json"
"""Lists what an export wrote, so that a later export may replace the folder and nothing else in it."""


NO_SPECIAL_TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


def check_apart(target: Path, source: Path) -> None:
    """Refuses to replace a checkpoint by what is made from it, or a folder that it lies in.

    Raises:
        CheckpointError: `target` is `source`, under whatever name, or one of the folders above it.
    """
    # Resolved, because a link to the checkpoint is the checkpoint.
    place, origin = target.expanduser().resolve(), source.expanduser().resolve()
    if place == origin or place in origin.parents:
        raise CheckpointError(
            str(target),
            required="another folder than the checkpoint's own, and none above it",
            given=f"{target}, where the checkpoint {source} lies",
            fix="choose another folder: this one would be replaced, and the checkpoint with it",
        )


def check_target(folder: str | Path, *, overwrite: bool = False) -> None:
    """Refuses a folder that an export must not replace; ask before training, not after.

    Raises:
        CheckpointError: it exists and holds anything that an earlier export did not write.
    """
    folder = Path(folder).expanduser()
    if overwrite or not folder.exists():
        return
    foreign = "a file" if folder.is_file() else _foreign_content(folder)
    if foreign is not None:
        raise CheckpointError(
            str(folder),
            required="a new folder, or one that an earlier export wrote",
            given=foreign,
            fix="choose another export folder, or allow it to be overwritten",
        )


def _foreign_content(folder: Path) -> str | None:
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    if not present:
        return None
    written: set[str] = set()
    if MARKER in present:
        files = read_json(folder / MARKER).get("files")
        written = {MARKER, *map(str, files if isinstance(files, list) else ())}
    foreign = sorted(present - written)
    return f"a folder with other files ({foreign[0]})" if foreign else None


def write_side_files(
    folder: Path,
    shape: ModelShape,
    extension: ContextExtension,
    source: HuggingFaceSource | None,
    tokenizer_path: str | Path | None,
    dtype: str | None,
) -> None:
    """config.json, generation_config.json, the tokenizer and the marker.

    Args:
        folder: where the weights have been written already.
        dtype: of the weights; None where each tensor keeps the source's.
    """
    config = build_config(shape, extension, source, dtype)
    extended = source is None or _extension_of(source) != extension
    if tokenizer_path is not None:
        max_length = extension.target_window if extended else None
        copy_tokenizer(tokenizer_path, folder, max_length=max_length)
    if source is None:
        config |= special_token_ids(folder) if tokenizer_path else NO_SPECIAL_TOKENS
    write_json(folder / "config.json", config)
    if source is not None and source.generation_config is not None:
        window = family_of_config(source.config).window_key
        old, new = source.config.get(window), extension.target_window
        values = without_code(source.generation_config)
        values = extended_generation_config(values, old, new) if extended else values
        write_json(folder / GENERATION_CONFIG, values)
    _write_marker(folder, shape, extension)


def _extension_of(source: HuggingFaceSource) -> ContextExtension:
    return extension_from_config(source.config, shape_from_config(source.config))


def _write_marker(folder: Path, shape: ModelShape, extension: ContextExtension) -> None:
    values: dict[str, Any] = {"shape": shape.to_dict(), "extension": extension.to_dict()}
    files = (path for path in folder.rglob("*") if path.is_file())
    values["files"] = sorted(path.relative_to(folder).as_posix() for path in files)
    write_json(folder / MARKER, values)
