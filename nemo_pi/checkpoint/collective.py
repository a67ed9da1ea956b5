"""Work that several ranks share and that must fail on all of them or on none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist
from torch.distributed.checkpoint import CheckpointException

from nemo_pi.checkpoint.space import out_of_space
from nemo_pi.errors import CheckpointError, NemoPiError

T = TypeVar("T")
Group = dist.ProcessGroup | None


def rank_in(group: Group) -> int:
    """This rank's number in a group (None: the world); 0 without distributed set-up."""
    return dist.get_rank(group) if dist.is_initialized() else 0


def size_of(group: Group) -> int:
    """Ranks in a group (None: the world); 1 without distributed set-up."""
    return dist.get_world_size(group) if dist.is_initialized() else 1


def gather_objects(value: T, group: Group) -> list[T]:
    """Every rank's value, in rank order, on every rank."""
    if size_of(group) == 1:
        return [value]
    values: list[Any] = [None] * size_of(group)
    dist.all_gather_object(values, value, group=group)
    return values


def together(what: str, work: Callable[[], T], group: Group) -> T:
    """Runs `work` on every rank of the group; where it fails on one, every rank raises.

    So no rank goes on to a collective that a failed one will never join. It is a barrier too.

    Args:
        what: named in the error on the ranks that did not fail themselves.
        work: must not itself wait for a rank that may fail.

    Raises:
        whatever `work` raised here, or CheckpointError with another rank's message.
    """
    result, error = None, None
    try:
        result = work()
    except Exception as caught:  # it is raised again below, once every rank knows
        error = caught
    messages = gather_objects(None if error is None else _named(error), group)
    # A rank that failed itself raises its own error, traceback and all; the others have the message.
    if error is not None:
        raise error
    for rank, message in enumerate(messages):
        if message is not None:
            raise CheckpointError(
                what, required="success on every rank", given=f"rank {rank}: {message}", fix="see that rank"
            )
    return result  # type: ignore[return-value]


def on_first(what: str, work: Callable[[], Any], group: Group) -> None:
    """Runs `work` on rank 0 of the group only; every rank waits and fails with it."""
    together(what, work if rank_in(group) == 0 else lambda: None, group)


@contextmanager
def as_checkpoint_error(
    what: str, *, required: str, fix: str, written_to: Path | None = None
) -> Iterator[None]:
    """Turns whatever goes wrong inside into a CheckpointError; one of this project's own passes through.

    Args:
        what: the file or folder that is worked on.
        required: what should have come about.
        fix: what the user can do.
        written_to: what is written lies below it; a full disk there is called so, whatever torch's and
            safetensors' writers say of it.
    """
    try:
        yield
    except NemoPiError:
        raise
    except (Exception, CheckpointException) as error:  # the latter is torch's, and no Exception
        full = None if written_to is None else out_of_space(error, written_to)
        if full is not None:
            required, given, fix = full.required, full.given, full.fix
        else:
            given = _named(error)
        raise CheckpointError(what, required=required, given=given, fix=fix) from error


def _named(error: BaseException) -> str:
    if isinstance(error, CheckpointException):  # holds every failed rank's own error
        return "; ".join(f"rank {rank}: {_named(cause)}" for rank, (cause, _) in error.failures.items())
    return f"{type(error).__name__}: {error}"
