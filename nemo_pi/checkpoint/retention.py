"""The checkpoints of a run: which is the latest, and which old ones may go."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from nemo_pi.checkpoint.files import ASIDE, REPLACED_SUFFIX, remove_folder
from nemo_pi.checkpoint.manifest import CENTRAL_FILES, MANIFEST, check_hashes, check_sizes, read_manifest
from nemo_pi.errors import CheckpointError

logger = logging.getLogger(__name__)

_STEP = re.compile(r"step_\d{8,}")


def checkpoint_folder(root: Path, step: int) -> Path:
    """Where a run keeps the checkpoint of `step`."""
    return root / f"step_{step:08d}"


def complete_checkpoints(root: str | Path) -> list[Path]:
    """Every complete distributed checkpoint directly under `root`, oldest first by step number.

    Incomplete and truncated ones, and those whose central files have changed, are logged and left out;
    foreign folders are not looked at.
    """
    found = []
    for folder in checkpoint_folders(Path(root)):
        try:
            manifest = read_manifest(folder)
            check_sizes(folder, manifest)
            # Small, and read before all ranks together look at the rest.
            check_hashes(folder, manifest, [name for name in CENTRAL_FILES if name in manifest["files"]])
        except CheckpointError as error:
            logger.warning("Skipping a checkpoint: %s", error)
            continue
        except FileNotFoundError:  # removed while it was looked at, by the run that it belongs to
            continue
        found.append((manifest["global_step"], manifest["consumed_samples"], folder.name, folder))
    return [entry[-1] for entry in sorted(found)]


def checkpoint_folders(root: Path) -> list[Path]:
    """Folders under `root` that hold a checkpoint, whole or damaged: by manifest, or by a run's name."""
    if not root.is_dir():
        return []
    folders = [
        path
        for path in root.iterdir()
        if (path / MANIFEST).is_file() or (_STEP.fullmatch(path.name) and path.is_dir())
    ]
    visible = [path for path in folders if not path.name.startswith(".") and not ASIDE.search(path.name)]
    # An overwrite that was interrupted between its two renames left the former checkpoint under this name.
    orphaned = [
        path
        for path in folders
        if path.name.endswith(REPLACED_SUFFIX)
        and not (root / path.name.removeprefix(".").removesuffix(REPLACED_SUFFIX)).exists()
    ]
    return visible + orphaned


def all_damaged(root: Path, damaged: Sequence[Path]) -> CheckpointError:
    """What a run stops at that has checkpoints and no whole one: to begin anew would cost all its steps."""
    names = ", ".join(path.name for path in damaged)
    return CheckpointError(
        str(root),
        required="a whole checkpoint to go on from",
        given=f"damaged ones only ({names}); the log above says what is wrong with each",
        fix=f"restore one from a copy, or begin anew: rm -r {root}",
    )


def latest_checkpoint(root: str | Path) -> Path | None:
    """The complete checkpoint of the highest step directly under `root`; None if there is none."""
    complete = complete_checkpoints(root)
    return complete[-1] if complete else None


def remove_checkpoints(folders: Sequence[Path]) -> None:
    """Removes folders, or the links to them."""
    for folder in folders:
        if folder.is_symlink():
            # The link goes; what it points to is not ours to remove.
            folder.unlink()
        else:
            remove_folder(folder)
