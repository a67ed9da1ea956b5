"""Checkpoints compared with their hashes by all ranks together, each no oftener than needed."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

from nemo_pi.checkpoint.collective import Group, gather_objects, on_first, rank_in, size_of, together
from nemo_pi.checkpoint.integrity import check_checkpoint
from nemo_pi.checkpoint.retention import all_damaged, complete_checkpoints, remove_checkpoints
from nemo_pi.errors import CheckpointError

logger = logging.getLogger(__name__)

_Fingerprint = tuple[tuple[str, int, int], ...]
# Checkpoints that this process has found whole (its share of them), and what their files looked like then.
_whole: dict[str, _Fingerprint] = {}


def damage_of(folder: Path, group: Group = None) -> str | None:
    """What is wrong with a checkpoint's files; None: they are what was saved. All ranks call it together.

    Each rank reads its share, unless it has read it before and no file was written to since.
    """
    share = (rank_in(group), size_of(group))

    def check() -> None:
        looks = _fingerprint(folder)
        if looks is None or _whole.get(str(folder)) != looks:
            check_checkpoint(folder, share)
            remember(folder)

    try:
        together(str(folder), check, group)
    except CheckpointError as error:
        return str(error)
    return None


def remember(folder: Path) -> None:
    """Counts a checkpoint as whole until a file of it changes: its writers have just read it back."""
    looks = _fingerprint(folder)
    if looks is not None:
        _whole[str(folder)] = looks


def newest_whole(last: Path, passed_over: Collection[Path] = (), group: Group = None) -> Path:
    """The newest checkpoint beside `last`, and not newer, whose contents are whole; damaged ones are logged.

    All ranks call it together and learn the same.

    Args:
        last: the one to begin with.
        passed_over: not to be considered again.
        group: of all ranks.

    Raises:
        CheckpointError: all are damaged.
    """
    found = _agreed(complete_checkpoints(last.parent) if rank_in(group) == 0 else [], group)
    found = found[: found.index(last) + 1] if last in found else [last]
    for folder in reversed(found):
        if folder in passed_over:
            continue
        damage = damage_of(folder, group)
        if damage is None:
            return folder
        if rank_in(group) == 0:
            logger.warning(f"Passing over a damaged checkpoint: {damage}")
    raise all_damaged(last.parent, found)


def prune_together(root: Path, keep: int, group: Group = None) -> None:
    """Removes all checkpoints below `root` but the newest `keep` whose contents are whole; all ranks call it.

    A damaged one does not count and stays. What cannot be removed is logged: it ends no run.
    """
    found = _agreed(complete_checkpoints(root) if rank_in(group) == 0 else [], group)
    if len(found) <= keep:
        return
    whole = 0
    while found and whole < keep:
        folder = found.pop()
        damage = damage_of(folder, group)
        whole += damage is None
        if damage is not None and rank_in(group) == 0:
            logger.warning(f"An older checkpoint stays, because a newer one is damaged: {damage}")

    def remove() -> None:
        try:
            remove_checkpoints(found)
        except OSError as error:
            logger.warning(f"An old checkpoint could not be removed: {error}")

    on_first(str(root), remove, group)


def _agreed(folders: list[Path], group: Group) -> list[Path]:
    """The first rank's list: on a network disk, others may not see the same yet."""
    return list(gather_objects(folders, group)[0])


def _fingerprint(folder: Path) -> _Fingerprint | None:
    try:
        entries = sorted(
            (path.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime_ns)
            for path in folder.rglob("*")
            if path.is_file()
            for stat in (path.stat(),)
        )
    except OSError:
        return None
    return tuple(entries)
