"""Reading the pickles of a distributed checkpoint without running what a stranger put into them.

A distributed checkpoint holds three kinds of pickle: `.metadata` (a raw one, which torch reads with
`pickle.load`), `common.pt` (a torch archive), and objects inside the `.distcp` files (which torch reads
with `weights_only=False`). All three are read here through exact allow-lists, and nowhere else.
"""

from __future__ import annotations

import io
import pickle
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import torch
from torch.distributed.checkpoint import Metadata

from nemo_pi.errors import CheckpointError

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


class MetadataUnpickler(pickle._Unpickler):
    """An unpickler that knows `ALLOWED_GLOBALS` and nothing else.

    The Python implementation, not the C one, because the BUILD instruction has to be guarded too: it can
    set attributes on a class, which would outlive this file.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

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
            raise pickle.UnpicklingError(f"attributes may not be set on {target!r}")
        super().load_build()  # type: ignore[misc]

    dispatch[pickle.BUILD[0]] = load_build


def read_metadata(path: Path) -> Metadata:
    """The tensors and chunks that a distributed checkpoint's `.metadata` file lists.

    Raises:
        CheckpointError: the file is missing, damaged, names something outside the allow-list, or points
            outside its own folder.
    """
    try:
        with path.open("rb") as stream:
            metadata = MetadataUnpickler(stream).load()
    except FileNotFoundError:
        raise _refused(path, "a readable file", "no such file") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise _refused(path, "a pickle of torch's checkpoint metadata", error) from error
    if not isinstance(metadata, Metadata):
        raise _refused(path, "torch.distributed.checkpoint.Metadata", type(metadata).__name__)
    stored = metadata.storage_data
    if not isinstance(stored, dict) or not isinstance(metadata.state_dict_metadata, dict):
        raise _refused(path, "a listing of tensors and files", "something else")
    for info in stored.values():
        name = str(getattr(info, "relative_path", ""))
        # torch joins it to the folder: with a path in it, any file could be read.
        if not name or Path(name).name != name:
            raise _refused(path, "plain file names inside the checkpoint", name)
    return metadata


def load_archive(source: Path | BinaryIO | io.BytesIO, name: str, *, mapped: bool = False) -> Any:
    """A torch archive (`torch.save`), tensors on the CPU, through torch's restricted unpickler.

    Classes that other code has registered as safe for its own purposes are not safe here: the list of
    additions is empty while this reads.

    Args:
        source: the archive.
        name: of it, for messages.
        mapped: leave tensors in the file until they are read, where its format allows it (a zip archive).

    Raises:
        CheckpointError: the archive is damaged or names something outside torch's own allow-list.
    """
    try:
        with _no_extra_globals():
            mapped = mapped and isinstance(source, Path) and zipfile.is_zipfile(source)
            return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    except FileNotFoundError:
        raise _refused(name, "a readable file", "no such file") from None
    except Exception as error:
        raise _refused(name, "plain tensors, numbers, strings and containers", error) from error


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
