"""Writing files and folders so that a crash leaves either the old or the new, never half of one."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import logging
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

from nemo_pi.bounded.files import read_bytes
from nemo_pi.bounded.json_text import (
    MOST_JSON_BYTES,
    MOST_VALUES,
    MOST_VOCABULARY_BYTES,
    MOST_VOCABULARY_VALUES,
    parse_json,
)
from nemo_pi.bounded.places import why_unwritable
from nemo_pi.errors import CheckpointError
from nemo_pi.processes import Writer, this_process

logger = logging.getLogger(__name__)

PARTIAL_SUFFIX = ".partial"
REPLACED_SUFFIX = ".replaced"
DELETING_SUFFIX = ".deleting"
ASIDE = re.compile(r"\.aside-\d+$")
"""Ends the name of what lay in a checkpoint's way."""

STALE_AFTER_SECONDS = 3600.0
"""A partial folder whose writer cannot be seen from here, and that nobody has written to for this long, is a
leftover."""


def partial_folder(folder: Path) -> Path:
    """Where this process writes `folder` before it gets its name: beside it, hidden, with its token."""
    return folder.parent / f".{folder.name}.{this_process().token}{PARTIAL_SUFFIX}"


def replaced_folder(folder: Path) -> Path:
    """Where the former `folder` waits while its replacement takes its name."""
    return folder.parent / f".{folder.name}{REPLACED_SUFFIX}"


def real_folder(path: str | Path) -> Path:
    """The folder itself where `path` is a link to it: links cannot be renamed or removed as folders can."""
    folder = Path(path).expanduser()
    return folder.resolve() if folder.is_symlink() else folder


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def sync_path(path: Path) -> None:
    """Forces a file's contents, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, values: Any) -> None:
    """Writes JSON as Hugging Face does (2 spaces, a final newline), synced."""
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    sync_path(path)


def read_json(path: Path, *, vocabulary: bool = False) -> dict[str, Any]:
    """A JSON file that must hold an object.

    Args:
        path: the file.
        vocabulary: whether it may be as large as a tokenizer's files are.

    Raises:
        CheckpointError: it is missing, larger than such a file is, not JSON, nested deeper than a model's
            description, or not an object.
    """
    most, values_allowed = MOST_JSON_BYTES, MOST_VALUES
    if vocabulary:
        most, values_allowed = MOST_VOCABULARY_BYTES, MOST_VOCABULARY_VALUES
    try:
        values = parse_json(read_bytes(path, most), most_values=values_allowed)
    except (OSError, ValueError) as error:  # ValueError: also integers of 5,000 digits
        raise CheckpointError(
            str(path), required="a JSON file", given=error, fix="restore this file from its source"
        ) from error
    if not isinstance(values, dict):
        raise CheckpointError(
            str(path),
            required="a JSON object",
            given=type(values).__name__,
            fix="restore this file from its source",
        )
    return values


_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def own_file(path: Path, folder: Path) -> Path:
    """`path`, a file that is about to be copied out of `folder`, where it may be copied.

    A stranger's folder can hold a link in a tokenizer's place to any file of its reader, whose content would
    then be published with an export. Links within the folder are followed, and those into a cache of the hub
    (models--org--name/blobs/), where a file is named by its own hash, so that nobody can name one without
    having it.

    Raises:
        CheckpointError: a link to anywhere else.
    """
    target = path.resolve()
    in_cache = target.parent.name == "blobs" and target.parent.parent.name.startswith("models--")
    if target.is_relative_to(folder.resolve()) or (in_cache and _BLOB.fullmatch(target.name)):
        return path
    raise CheckpointError(
        str(path),
        required="a file of this folder, or a link into the hub's cache",
        given=f"a link to {target}",
        fix="put the file itself there, if it belongs to the model",
    )


def check_writable(field: str, folder: Path) -> None:
    """Refuses a folder that could not be made or written to; makes nothing itself.

    Raises:
        CheckpointError: naming `field`, and the nearest folder that exists.
    """
    reason = why_unwritable(folder)
    if reason is not None:
        raise CheckpointError(
            field,
            required="a folder that can be written to",
            given=f"{str(folder)[:200]}: {reason}",
            fix="give another folder, or correct its permissions",
        )


def start_folder(folder: Path) -> Path:
    """An empty partial folder for `folder`; those left over from interrupted writes of it are removed."""
    partial = partial_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # The last is how versions before writers' tokens called it.
    for leftover in (partial, folder.parent / f".{folder.name}{PARTIAL_SUFFIX}"):
        if leftover.exists():
            shutil.rmtree(leftover)
    for other in folder.parent.glob(f".{glob.escape(folder.name)}.*{PARTIAL_SUFFIX}"):
        _remove_leftover(other)
    partial.mkdir()
    return partial


def drop_partial(folder: Path) -> None:
    """Removes what a failed write of `folder` by this process has left; never fails itself."""
    shutil.rmtree(partial_folder(folder), ignore_errors=True)


def finish_folder(folder: Path) -> None:
    """Gives the partial folder its name; a former folder of that name is removed only afterwards."""
    partial, former = partial_folder(folder), replaced_folder(folder)
    sync_path(partial)
    if folder.exists():
        if former.exists():
            shutil.rmtree(former)
        # A folder cannot be renamed over one that holds files, so the former one steps aside.
        folder.rename(former)
    partial.rename(folder)
    # The new name has to be on the disk before the former folder goes.
    sync_path(folder.parent)
    if former.exists():
        shutil.rmtree(former)


def set_aside(path: Path) -> Path:
    """Gives what lies under a name that is needed another one beside it, which is returned and logged."""
    number = 1
    while (aside := path.with_name(f"{path.name}.aside-{number}")).exists():
        number += 1
    path.rename(aside)
    logger.warning(f"{path} was in the way and is no checkpoint of this run: it lies in {aside} now")
    return aside


def remove_folder(folder: Path) -> None:
    """Removes a folder; from the first moment on it no longer exists under its name."""
    doomed = folder.parent / f".{folder.name}{DELETING_SUFFIX}"
    if doomed.exists():
        shutil.rmtree(doomed)
    folder.rename(doomed)
    shutil.rmtree(doomed)


def clean_leftovers(root: Path) -> None:
    """Removes what interrupted writes and removals left in `root`, and brings back a folder whose
    replacement never got its name.

    A partial folder whose writer lives stays, and so does one whose writer cannot be seen from here (another
    machine, or an older version, which left no token) if it was written to within the last hour.
    """
    for former in root.glob(f".*{REPLACED_SUFFIX}"):
        folder = root / former.name[1 : -len(REPLACED_SUFFIX)]
        if folder.exists():
            shutil.rmtree(former, ignore_errors=True)
        else:
            # Interrupted between finish_folder's two renames: the former folder is the only whole one.
            former.rename(folder)
    for doomed in root.glob(f".*{DELETING_SUFFIX}"):
        shutil.rmtree(doomed, ignore_errors=True)
    for partial in root.glob(f".*{PARTIAL_SUFFIX}"):
        _remove_leftover(partial)


def _remove_leftover(partial: Path) -> None:
    writer = Writer.from_token(partial.name.removesuffix(PARTIAL_SUFFIX).rpartition(".")[2])
    lives = None if writer is None else writer.lives()
    if lives is None:
        lives = _last_change(partial) >= time.time() - STALE_AFTER_SECONDS
    if not lives:
        shutil.rmtree(partial, ignore_errors=True)


def _last_change(folder: Path) -> float:
    """When the folder or anything in it was last modified, in seconds of the epoch."""
    times = [folder.stat().st_mtime]
    for path in folder.rglob("*"):
        # Another run may be at work in it.
        with contextlib.suppress(FileNotFoundError):
            times.append(path.stat().st_mtime)
    return max(times)
