"""Reading the pickles of a distributed checkpoint without running what a stranger put into them.

A distributed checkpoint holds three kinds of pickle: `.metadata` (a raw one, which torch reads with
`pickle.load`), `common.pt` (a torch archive), and objects inside the `.distcp` files (which torch reads
with `weights_only=False`). All three are read here through exact allow-lists, and nowhere else.
"""

from __future__ import annotations

import io
import os
import pickle
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import torch
from torch.distributed.checkpoint import BytesStorageMetadata, Metadata, TensorStorageMetadata

from nemo_pi.bounded.files import open_regular
from nemo_pi.checkpoint.archives import check_archive
from nemo_pi.checkpoint.pickles import BoundedUnpickler
from nemo_pi.errors import CheckpointError
from nemo_pi.units import size_of

_METADATA = "torch.distributed.checkpoint.metadata"
_PLANNER = "torch.distributed.checkpoint.planner"
_FILESYSTEM = "torch.distributed.checkpoint.filesystem"
_MEGATRON = "megatron.core.dist_checkpointing.strategies.torch"

# Data classes and enums whose construction only stores its arguments; nothing here reads a file,
# imports a module or calls back. dtypes are spelled out: `torch` holds functions of the same reach as os.
ALLOWED_GLOBALS: frozenset[tuple[str, str]] = frozenset(
    [(_METADATA, name) for name in ("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties")]
    + [(_METADATA, name) for name in ("TensorStorageMetadata", "ChunkStorageMetadata")]
    + [(_METADATA, name) for name in ("BytesStorageMetadata", "_MEM_FORMAT_ENCODING")]
    + [(_PLANNER, name) for name in ("SavePlan", "WriteItem", "WriteItemType", "TensorWriteData")]
    + [(_FILESYSTEM, name) for name in ("_StorageInfo", "_StoragePrefix")]
    + [(_MEGATRON, name) for name in ("MCoreMetadata", "MCoreSavePlan")]
    + [("torch", name) for name in ("Size", "float32", "float64", "float16", "bfloat16", "bool")]
    + [("torch", name) for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")]
    + [("torch", name) for name in ("uint64", "float8_e4m3fn", "float8_e5m2")]
    + [("torch.serialization", "_get_layout"), ("collections", "OrderedDict")]
    + [(module, name) for module in ("pathlib", "pathlib._local") for name in ("PosixPath", "PurePosixPath")]
)

# torch's list of further safe classes is one for the whole process.
_archive_lock = threading.Lock()


# A listing takes some 300 bytes a tensor and rank, and that tensor more than a thousand in its file.
_FREE_BYTES, _MOST_BYTES = 1 << 20, 1 << 28


class MetadataUnpickler(BoundedUnpickler):
    """An unpickler that knows `ALLOWED_GLOBALS` and nothing else.

    The BUILD instruction is guarded too: it can set attributes on a class, which would outlive this file.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(BoundedUnpickler.dispatch)

    def find_class(self, module_name: str, global_name: str) -> Any:
        """The named class, if the allow-list holds it.

        Raises:
            pickle.UnpicklingError: it does not; the module is not imported.
        """
        if (module_name, global_name) not in ALLOWED_GLOBALS:
            raise pickle.UnpicklingError(f"{module_name}.{global_name} is not on the allow-list")
        return super().find_class(module_name, global_name)

    def load_build(self) -> None:
        """BUILD, on instances only."""
        target = self.stack[-2]  # type: ignore[attr-defined]
        if isinstance(target, type) or callable(target):
            raise pickle.UnpicklingError("attributes may be set on instances alone")
        super().load_build()  # type: ignore[misc]

    dispatch[pickle.BUILD[0]] = load_build


def read_metadata(path: Path) -> Metadata:
    """The tensors and chunks that a distributed checkpoint's `.metadata` file lists.

    Raises:
        CheckpointError: the file is missing, damaged, names something outside the allow-list, or points
            outside its own folder.
    """
    try:
        with open_regular(path) as stream:
            metadata = MetadataUnpickler(stream, _checked_length(path, stream)).load()
    except FileNotFoundError:
        raise _refused(path, "a readable file", "no such file") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise _refused(path, "a pickle of torch's checkpoint metadata", error) from error
    if not isinstance(metadata, Metadata):
        raise _refused(path, "torch.distributed.checkpoint.Metadata", type(metadata).__name__)
    # An instance that was built field by field may lack any of them.
    stored, names = getattr(metadata, "storage_data", None), getattr(metadata, "state_dict_metadata", None)
    if not isinstance(stored, dict) or not isinstance(names, dict):
        raise _refused(path, "a listing of tensors and files", "something else")
    for name, listed in names.items():
        if not isinstance(name, str) or not _is_listing(listed):
            raise _refused(path, "names, sizes and dtypes of tensors", "something else")
    for info in stored.values():
        _check_place(path, info)
    return metadata


def _checked_length(path: Path, stream: BinaryIO) -> int:
    """Bytes of a listing, of which there are no more than of what it lists."""
    length = os.fstat(stream.fileno()).st_size
    listed = sum(file.stat().st_size for file in path.parent.glob("*.distcp"))
    most = min(_FREE_BYTES + listed, _MOST_BYTES)
    if length > most:
        raise ValueError(f"{size_of(length)}, for {size_of(listed)} of tensors")
    return length


def _check_place(path: Path, info: Any) -> None:
    """Refuses a place of a tensor that is none in a file of the checkpoint."""
    name = getattr(info, "relative_path", None)
    # torch joins it to the folder: with a path in it, any file could be read.
    if not isinstance(name, str) or not name or Path(name).name != name:
        raise _refused(
            path, "plain file names inside the checkpoint", str(name) if _is_plain(name) else "other"
        )
    places = (getattr(info, "offset", None), getattr(info, "length", None))
    if not all(type(place) is int and place >= 0 for place in places):
        raise _refused(path, "places in those files, in bytes", "something else")
    if getattr(info, "transform_descriptors", None):  # which may unpack what they read to any size
        raise _refused(path, "tensors as torch saves them", "transformed ones")


def _is_listing(listed: Any) -> bool:
    """An object's entry, or a tensor's with the fields that are read of it."""
    if not isinstance(listed, TensorStorageMetadata):
        return isinstance(listed, BytesStorageMetadata)
    properties, size = getattr(listed, "properties", None), getattr(listed, "size", None)
    is_size = isinstance(size, torch.Size) and all(length >= 0 for length in size)
    return is_size and isinstance(getattr(properties, "dtype", None), torch.dtype)


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | None)


def load_archive(source: Path | BinaryIO | io.BytesIO, name: str, *, mapped: bool = False) -> Any:
    """A torch archive (`torch.save`), tensors on the CPU, through torch's restricted unpickler.

    Classes that other code has registered as safe for its own purposes are not safe here: the list of
    additions is empty while this reads. Before, the archive's listing and its pickle are looked at, see
    `nemo_pi.checkpoint.archives`.

    Args:
        source: the archive.
        name: of it, for messages.
        mapped: leave tensors in the file until they are read, where its format allows it (a zip archive).

    Raises:
        CheckpointError: the archive is damaged, names something outside torch's own allow-list, or would
            take more memory than it has bytes.
    """
    try:
        with _opened(source) as stream:
            is_zip = check_archive(stream)
            stream.seek(0)
            given = source if mapped and is_zip and isinstance(source, Path) else stream
            with _no_extra_globals():
                return torch.load(given, map_location="cpu", weights_only=True, mmap=isinstance(given, Path))
    except FileNotFoundError:
        raise _refused(name, "a readable file", "no such file") from None
    except Exception as error:
        raise _refused(name, "plain tensors, numbers, strings and containers", error) from error


def check_part(stream: BinaryIO, place: tuple[int, int], name: str) -> None:
    """Looks at the archive of one tensor or object in a file of several, before torch reads it.

    Args:
        stream: the file.
        place: (first byte, number of bytes) of the archive.
        name: of the file, for messages.

    Raises:
        CheckpointError: as load_archive.
    """
    try:
        check_archive(stream, place)
    except Exception as error:
        raise _refused(name, "plain tensors, numbers, strings and containers", error) from error


@contextmanager
def _opened(source: Path | BinaryIO | io.BytesIO) -> Iterator[BinaryIO]:
    if not isinstance(source, Path):
        yield source
        return
    with open_regular(source) as stream:
        yield stream


@contextmanager
def _no_extra_globals() -> Iterator[None]:
    with _archive_lock:
        registered = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        try:
            yield
        finally:
            torch.serialization.add_safe_globals(registered)


def _refused(path: Path | str, required: str, given: Any) -> CheckpointError:
    return CheckpointError(
        str(path),
        required=required,
        given=given,
        fix="restore the checkpoint from a copy you trust; it was not loaded and none of its code was run",
    )
