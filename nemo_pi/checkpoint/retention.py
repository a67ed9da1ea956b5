"""The checkpoints of a run: which is the latest, and which old ones may go."""

from __future__ import annotations

import logging
from pathlib import Path

from nemo_pi.checkpoint.files import REPLACED_SUFFIX, remove_folder
from nemo_pi.checkpoint.manifest import MANIFEST, check_sizes, read_manifest
from nemo_pi.errors import CheckpointError

logger = logging.getLogger(__name__)


def complete_checkpoints(root: str | Path) -> list[Path]:
    """Every complete distributed checkpoint directly under `root`, oldest first by step number.

    Incomplete and truncated ones are logged and left out; foreign folders are not looked at.
    """
    found = []
    for folder in _candidates(Path(root)):
        try:
            manifest = read_manifest(folder)
            check_sizes(folder, manifest)
        except CheckpointError as error:
            logger.warning("Skipping a checkpoint: %s", error)
            continue
        found.append((manifest["global_step"], manifest["consumed_samples"], folder.name, folder))
    return [entry[-1] for entry in sorted(found)]


def _candidates(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    folders = [path for path in root.iterdir() if (path / MANIFEST).is_file()]
    visible = [path for path in folders if not path.name.startswith(".")]
    # An overwrite that was interrupted between its two renames left the former checkpoint under this name.
    orphaned = [
        path
        for path in folders
        if path.name.endswith(REPLACED_SUFFIX)
        and not (root / path.name.removeprefix(".").removesuffix(REPLACED_SUFFIX)).exists()
    ]
    return visible + orphaned


def latest_checkpoint(root: str | Path) -> Path | None:
    """The complete checkpoint of the highest step directly under `root`; None if there is none."""
    complete = complete_checkpoints(root)
    return complete[-1] if complete else None


def prune_checkpoints(root: str | Path, keep: int) -> list[Path]:
    """Removes complete checkpoints under `root` but for the newest `keep`. Call it on one rank only.

    Folders that are not checkpoints of this project, and damaged ones, are never touched.

    Returns:
        What was removed.

    Raises:
        CheckpointError: keep is below 1.
    """
    if keep < 1:
        raise CheckpointError("keep", required="at least 1", given=keep, fix="keep the newest checkpoint")
    # Of the complete ones: a damaged one that is newer must not push the last whole one out.
    removed = complete_checkpoints(root)[:-keep]
    for folder in removed:
        if folder.is_symlink():
            # The link goes; what it points to is not ours to remove.
            folder.unlink()
        else:
            remove_folder(folder)
    return removed
