"""nemo_pi.json: what a distributed checkpoint is and the size and SHA-256 of each of its files.

It is written last, so a folder that has it was saved completely.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nemo_pi.checkpoint.files import read_json, sha256_of
from nemo_pi.errors import CheckpointError

MANIFEST = "nemo_pi.json"
METADATA_FILE = ".metadata"
COMMON_FILE = "common.pt"
CENTRAL_FILES = (METADATA_FILE, COMMON_FILE, "metadata.json")
"""Files of Megatron's format that the first rank writes and every rank reads."""
TOKENIZER_FOLDER = "tokenizer"
FORMAT = "nemo_pi-distributed"
FORMAT_VERSION = 1

_REQUIRED: dict[str, type] = {
    "format": str,
    "format_version": int,
    "shape": dict,
    "extension": dict,
    "global_step": int,
    "consumed_samples": int,
    "files": dict,
}

_VERSIONED = ("nemo_pi", "torch", "megatron-core", "nemo_toolkit", "transformers")


def file_entries(folder: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """{relative name: {bytes, sha256}} of the named files."""
    return {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)} for name in names
    }


def all_files(folder: Path) -> list[str]:
    """Relative names of every file in a checkpoint except the manifest, sorted."""
    found = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return sorted(name for name in found if name != MANIFEST)


def build_manifest(meta: Mapping[str, Any], files: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest's content.

    Args:
        meta: shape, extension (both as their to_dict), global_step, consumed_samples, and anything else
            that is JSON-ready.
        files: entries as `file_entries` makes them.

    Raises:
        CheckpointError: meta lacks one of the four, or JSON cannot hold it.
    """
    manifest = {
        **meta,
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "versions": {name: _version_of(name) for name in _VERSIONED},
        "files": dict(sorted(files.items())),
    }
    _check_fields("meta", manifest)
    try:
        json.dumps(manifest)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            "meta", required="values that JSON can hold", given=error, fix="convert them first"
        ) from error
    return manifest


def _version_of(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a distributed checkpoint.

    Raises:
        CheckpointError: the folder is not a checkpoint of this project, is incomplete, or newer.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise CheckpointError(
            str(folder),
            required=f"a complete distributed checkpoint (with {MANIFEST})",
            given="none" if folder.is_dir() else "no such folder",
            fix="give a checkpoint that was saved to its end; an interrupted save has no " + MANIFEST,
        )
    manifest = read_json(path)
    _check_fields(str(path), manifest)
    _check_entries(path, manifest["files"])
    if manifest["format"] != FORMAT or manifest["format_version"] > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format",
            required=f"{FORMAT}, version at most {FORMAT_VERSION}",
            given=f"{manifest['format']}, version {manifest['format_version']}",
            fix="read it with the version of nemo_pi that wrote it",
        )
    return manifest


def _check_fields(where: str, manifest: Mapping[str, Any]) -> None:
    for key, kind in _REQUIRED.items():
        value = manifest.get(key)
        # To Python, true is a whole number, too.
        if not isinstance(value, kind) or (isinstance(value, int) and (isinstance(value, bool) or value < 0)):
            raise CheckpointError(
                f"{where}: {key}",
                required=f"{'a non-negative ' if kind is int else ''}{kind.__name__}",
                given=repr(value),
                fix="restore this file from its source",
            )


_SHA256 = re.compile(r"[0-9a-f]{64}")


def _check_entries(path: Path, files: Mapping[str, Any]) -> None:
    """Refuses a file's entry without a size or a hash: what cannot be compared has not been saved whole."""
    for name, entry in files.items():
        size, sha256 = (
            (entry.get(key) for key in ("bytes", "sha256")) if isinstance(entry, dict) else ("", "")
        )
        if type(size) is int and size >= 0 and isinstance(sha256, str) and _SHA256.fullmatch(sha256):
            continue
        given = entry if isinstance(entry, dict) else type(entry).__name__
        raise _damaged(path, f"bytes and sha256 of {name}", str(given)[:200])


def check_sizes(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Compares every file's size with the manifest: quick, finds missing, truncated and unlisted files.

    Raises:
        CheckpointError: naming the file and both sizes.
    """
    for name, entry in manifest["files"].items():
        path = _inside(folder, name)
        given = _size_of(path)
        if given != f"{entry['bytes']} bytes":
            raise _damaged(path, f"{entry['bytes']} bytes", given)
    # Tensors are read from where .metadata says: from files that nobody has hashed, too.
    unlisted = sorted(path.name for path in folder.glob("*.distcp") if path.name not in manifest["files"])
    if unlisted:
        raise _damaged(folder / MANIFEST, f"an entry for {unlisted[0]}", "none")


def _size_of(path: Path) -> str:
    # Looked at once: the run that a checkpoint belongs to may remove it meanwhile.
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return "no such file"
    return f"{found.st_size} bytes" if stat.S_ISREG(found.st_mode) else "no such file"


def check_hashes(folder: Path, manifest: Mapping[str, Any], names: list[str]) -> None:
    """Compares the SHA-256 of the named files with the manifest: reads them whole, finds any bit flip.

    Raises:
        CheckpointError: naming the file.
    """
    for name in names:
        path = _inside(folder, name)
        given = sha256_of(path)
        if given != manifest["files"][name]["sha256"]:
            raise _damaged(path, f"sha256 {manifest['files'][name]['sha256']}", f"sha256 {given}")


def _inside(folder: Path, name: str) -> Path:
    # Whoever made the checkpoint wrote these names: none may lead out of its folder.
    if os.path.isabs(name) or ".." in Path(name).parts:
        raise _damaged(folder / MANIFEST, "file names inside the checkpoint", name)
    return folder / name


def _damaged(path: Path, required: str, given: str) -> CheckpointError:
    return CheckpointError(
        str(path),
        required=required,
        given=given,
        fix="restore the file, or go on from an earlier checkpoint: this one is damaged",
    )
