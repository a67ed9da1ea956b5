"""Free space: compared with what is about to be written, and named where it has run out."""

from __future__ import annotations

import errno
import shutil
from dataclasses import dataclass
from pathlib import Path

from torch.distributed.checkpoint import CheckpointException

from nemo_pi.errors import CheckpointError, chain_of
from nemo_pi.units import size_of

_FULL = (errno.ENOSPC, errno.EDQUOT)
_SAID = ("No space left on device", "Disk quota exceeded", "os error 28", "os error 122", "StorageFull")
# torch's archive writer and safetensors' each have words of their own for a write that came back short.
_SHORT_WRITES = ("unexpected pos", "PytorchStreamWriter failed writing", "failed finding central directory")
_FEW_BYTES = 1 << 20


@dataclass(frozen=True)
class Full:
    """Words for a disk that is full, as an error of ours takes them."""

    required: str
    given: str
    fix: str


def free_bytes(folder: Path) -> int:
    """Bytes that can be written below `folder`, which need not exist yet; quotas are not seen."""
    return shutil.disk_usage(_nearest(folder)).free


def same_disk(one: Path, other: Path) -> bool:
    """Whether two folders, which need not exist yet, take their space from one file system."""
    return _nearest(one).stat().st_dev == _nearest(other).stat().st_dev


def is_memory(folder: Path) -> bool:
    """Whether files below `folder` take the machine's memory; False where Linux does not say."""
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    nearest, found = str(_nearest(folder).resolve()), ("", "")
    for place, kind in (line.split(" ")[1:3] for line in mounts):
        # The last of those mounted in one place hides the others.
        if (nearest + "/").startswith(place.rstrip("/") + "/") and len(place) >= len(found[0]):
            found = (place, kind)
    return found[1] in ("tmpfs", "ramfs")


def _nearest(folder: Path) -> Path:
    nearest = folder.expanduser().absolute()
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    return nearest


def check_space(folder: Path, num_bytes: int, what: str, fix: str = "") -> None:
    """Refuses to begin a write that the disk has no room for.

    Args:
        folder: what is written lies below it.
        num_bytes: of what is written.
        what: is written, for the message.
        fix: a further way out, besides more space.

    Raises:
        CheckpointError: naming both sizes.
    """
    free = free_bytes(folder)
    if num_bytes <= free:
        return
    raise CheckpointError(
        str(folder),
        required=f"{size_of(num_bytes)} of free space for {what}",
        given=f"{size_of(free)}: the disk is full",
        fix="free some space there" + (f", or {fix}" if fix else ""),
    )


def out_of_space(error: BaseException, folder: Path) -> Full | None:
    """What to say of an error while something was written below `folder`, if a full disk is behind it."""
    causes = [cause for each in _causes(error) for cause in chain_of(each)]
    said = any(
        (isinstance(cause, OSError) and cause.errno in _FULL) or any(word in str(cause) for word in _SAID)
        for cause in causes
    )
    free = free_bytes(folder)
    short = any(word in str(cause) for cause in causes for word in _SHORT_WRITES)
    if not said and not (short and free < _FEW_BYTES):
        return None
    quota = any(
        "quota" in str(cause) or (isinstance(cause, OSError) and cause.errno == errno.EDQUOT)
        for cause in causes
    )
    which = "the quota is used up" if quota else "the disk is full"
    return Full(
        required="room for all of its files",
        given=f"No space left on device ({which}: {size_of(free)} are free below {folder})",
        fix="free some space there; what was written before is untouched",
    )


def _causes(error: BaseException) -> list[BaseException]:
    if isinstance(error, CheckpointException):
        return [cause for cause, _ in error.failures.values()]
    return [error]
