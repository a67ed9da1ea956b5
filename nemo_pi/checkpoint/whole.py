"""A folder that several ranks write: it gets its name complete, or nothing of it is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from nemo_pi.checkpoint.collective import Group, as_checkpoint_error, gather_objects, on_first, rank_in
from nemo_pi.checkpoint.files import (
    drop_partial,
    finish_folder,
    partial_folder,
    set_aside,
    start_folder,
)
from nemo_pi.checkpoint.lock import check_held, writing


def _nothing_to_check() -> None:
    pass


def _replace(folder: Path) -> bool:
    return False


@contextmanager
def written_whole(
    folder: Path,
    what: str,
    *,
    check: Callable[[], None] = _nothing_to_check,
    keep_aside: Callable[[Path], bool] = _replace,
    fix: str = "check free space and permissions",
    group: Group = None,
) -> Iterator[Path]:
    """Gives the folder to write into, which becomes `folder` where the block ends; collective.

    The lock around it is taken before anything is looked at, and given back after what a failed write has
    left is gone. A block must fail on every rank or on none: what one rank does by itself goes through
    `together` or `on_first`.

    Args:
        folder: the final name, as real_folder gives it.
        what: is written, as the error says it: "save", "export", "conversion".
        check: what has to hold before anything is written; on the first rank alone, under the lock.
        keep_aside: asked at the end of what lies under that name by then: whether it is moved to a name
            beside it. What is not is replaced.
        fix: what the error tells the user to do.
        group: process group of all ranks that write; None is the world.

    Yields:
        The first rank's partial folder, whose process it is named after; it exists.

    Raises:
        CheckpointError: on every rank, if any rank failed; what lay under the name is as it was.
    """
    name = str(folder)
    partial = gather_objects(partial_folder(folder), group)[0]

    def start() -> None:
        check()
        start_folder(folder)

    def finish() -> None:
        check_held()
        if folder.exists() and keep_aside(folder):
            set_aside(folder)
        finish_folder(folder)

    with (
        as_checkpoint_error(name, required=f"a complete {what}", fix=fix, written_to=folder.parent),
        ExitStack() as on_exit,
    ):
        on_first(name, lambda: on_exit.enter_context(writing(folder)), group)
        try:
            on_first(name, start, group)
            yield partial
            on_first(name, finish, group)
        except BaseException:
            # Every rank has failed by now: nobody writes to it any more.
            if rank_in(group) == 0:
                drop_partial(folder)
            raise
