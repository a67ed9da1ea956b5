"""Whether a distributed checkpoint is whole, unchanged and safe to read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nemo_pi.checkpoint.manifest import (
    CENTRAL_FILES,
    COMMON_FILE,
    METADATA_FILE,
    check_hashes,
    check_sizes,
    read_manifest,
)
from nemo_pi.checkpoint.safe_pickle import load_archive, read_metadata


def verify(folder: str | Path) -> dict[str, Any]:
    """Checks that a checkpoint is complete and that no bit of it has changed; reads every file.

    Returns:
        Its manifest.

    Raises:
        CheckpointError: naming the first file that is missing, truncated, changed or unsafe.
    """
    return check_checkpoint(Path(folder), (0, 1))


def check_checkpoint(folder: Path, shard: tuple[int, int] | None) -> dict[str, Any]:
    """Checks sizes, central files, pickles, and this rank's shard of the remaining contents.

    Args:
        folder: the checkpoint.
        shard: (rank, ranks) that divide the reading between them; None skips it.

    Returns:
        The manifest.

    Raises:
        CheckpointError: as `verify`.
    """
    manifest = read_manifest(folder)
    check_sizes(folder, manifest)
    # Every rank reads these, so every rank checks them; the others are divided.
    names = [name for name in CENTRAL_FILES if name in manifest["files"]]
    if shard is not None:
        rank, ranks = shard
        names += sorted(set(manifest["files"]) - set(names))[rank::ranks]
    # Before the pickles: one that was damaged is to be called damaged, not unsafe.
    check_hashes(folder, manifest, names)
    check_pickles(folder)
    return manifest


def check_pickles(folder: Path) -> None:
    """Reads both central pickles through the allow-lists.

    Hashes only tell accidents: whoever replaced a pickle could have replaced the manifest as well.

    Raises:
        CheckpointError: missing, damaged, or naming something outside the allow-lists.
    """
    read_metadata(folder / METADATA_FILE)
    load_archive(folder / COMMON_FILE, str(folder / COMMON_FILE))
