"""Archives of `torch.save`, looked at before torch reads them: none takes more memory than it has bytes.

torch trusts an archive's own words for sizes: a compressed member of a few megabytes inflates to gigabytes, a
tensor may be larger than the storage it is a view of (which then grows), and a call of `bytearray` or of a
tensor class sets aside what its argument says. Here the zip listing must be that of members stored as they
are, one behind the other, and the pickle is read once with stand-ins for everything it names.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, ClassVar

import torch

from nemo_pi.bounded.files import BoundedReader
from nemo_pi.checkpoint.pickles import BoundedUnpickler, check_parts

_MOST_LISTING = 1 << 24
"""Bytes of the zip listing: some hundred for each tensor."""
_MOST_PICKLE = 1 << 26
"""Bytes of data.pkl: some three hundred for each tensor."""
_END, _END64 = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_LATIN = ("latin1", "latin-1")


def check_archive(stream: BinaryIO, place: tuple[int, int] | None = None) -> bool:
    """Refuses an archive that torch.load would need more memory for than it has bytes.

    Args:
        stream: holds it; is read from anywhere.
        place: (first byte, number of bytes) of the archive in it; None: it is the whole.

    Returns:
        Whether it is a zip archive; before torch 1.6 it was pickles, with the storages behind them.

    Raises:
        ValueError, zipfile.BadZipFile, pickle.UnpicklingError, …: it is none, or such a one.
    """
    base = BoundedReader(stream, _MOST_LISTING, place)
    if base.read(4) != b"PK\3\4":
        _check_pickles(base)
        return False
    with zipfile.ZipFile(base) as archive:
        sizes = _member_sizes(archive, base)
        name = f"{next(iter(sizes), '').split('/')[0]}/data.pkl"
        if name not in sizes or sizes[name] > _MOST_PICKLE:
            raise ValueError("no data.pkl of an ordinary size")
        base.most = _MOST_PICKLE
        pickled = archive.read(name)
    folder = name.removesuffix("data.pkl") + "data/"
    storages = {place.removeprefix(folder): size for place, size in sizes.items() if place.startswith(folder)}
    _ArchiveUnpickler(io.BytesIO(pickled), len(pickled), storages).load()
    return True


def _check_pickles(stream: BoundedReader) -> None:
    """The older format: a magic number, a version, what wrote it, the values, and the names of storages.

    The bytes of storages follow, each behind its length; together they are no longer than the file.
    """
    stream.seek(0)
    storages = _Claimed(stream.length)
    for _ in range(5):
        _ArchiveUnpickler(stream, stream.length, storages).load()


class _Claimed(dict[str, int]):
    """Bytes of storages that only their pickle names: each what is left of the file."""

    def __init__(self, num_bytes: int) -> None:
        super().__init__()
        self.left = num_bytes

    def claim(self, key: str, num_bytes: int) -> bool:
        """Whether a storage of so many bytes fits beside those before it."""
        if key not in self:
            self[key] = num_bytes
            self.left -= num_bytes
        return self[key] >= num_bytes and self.left >= 0


def _member_sizes(archive: zipfile.ZipFile, stream: BoundedReader) -> dict[str, int]:
    """Bytes of each member: of one folder, none compressed, none twice, together no more than the file."""
    members = archive.infolist()
    sizes = {member.filename: member.file_size for member in members}
    folder = members[0].filename.split("/")[0] if members else ""
    if len(sizes) < len(members) or any(not name.startswith(f"{folder}/") for name in sizes):
        raise ValueError("members of several archives")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("compressed members, which torch does not write")
    if any(member.file_size != member.compress_size for member in members):
        raise ValueError("members that say they are larger than they are")
    # Members that overlap would be read several times over.
    if sum(sizes.values()) > archive.start_dir or archive.start_dir != _listing_start(stream):
        raise ValueError("more bytes in its members than in the file")
    return sizes


def _listing_start(stream: BoundedReader) -> int:
    """Where the file's last words say that the listing begins: zipfile corrects them, torch does not."""
    end = stream.seek(0, io.SEEK_END) - _END.size
    stream.seek(end)
    magic, *_, start, comment = _END.unpack(stream.read(_END.size))
    if magic != b"PK\5\6" or comment:
        raise ValueError("something behind the zip listing")
    if end < _LOCATOR.size:
        return int(start)
    stream.seek(end - _LOCATOR.size)
    magic, _, end64, _ = _LOCATOR.unpack(stream.read(_LOCATOR.size))
    if magic != b"PK\6\7":
        return int(start)
    stream.seek(end64)
    return int(_END64.unpack(stream.read(_END64.size))[-1])


class _Named:
    """Stands for a class or function that the pickle names; a call makes a stand-in too."""

    def __init__(self, name: str, make: Callable[..., Any]) -> None:
        self.name, self.make = name, make

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.make(*args, **kwargs)


class _Value:
    """Stands for what was made."""


class _Storage:
    """Stands for a storage, of which only the length matters."""

    def __init__(self, num_bytes: int, itemsize: int) -> None:
        self.num_bytes, self.itemsize = num_bytes, itemsize


class _ArchiveUnpickler(BoundedUnpickler):
    """Goes through a data.pkl and makes nothing; names that torch.save does not write are refused.

    Args:
        stream: the pickle.
        num_bytes: of the pickle, at the most.
        storages: bytes of each member under data/, by its name there.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(BoundedUnpickler.dispatch)

    def __init__(self, stream: BinaryIO | BoundedReader, num_bytes: int, storages: Mapping[str, int]) -> None:
        super().__init__(stream, num_bytes, most_field=min(num_bytes, _MOST_PICKLE))
        self._storages = storages

    def find_class(self, module_name: str, global_name: str) -> Any:
        """A stand-in for what torch allows and torch.save writes.

        Raises:
            pickle.UnpicklingError: any other name.
        """
        name = f"{module_name}.{global_name}".replace("__builtin__.", "builtins.")
        if name in _MAKERS:
            return _Named(name, _MAKERS[name])
        if module_name in ("torch", "torch.storage") and (
            global_name in _ITEM_SIZES or _is_dtype(global_name)
        ):
            return _Named(name, _not_called)
        raise pickle.UnpicklingError(f"{name} is not among what plain values and tensors are saved as")

    def persistent_load(self, pid: Any) -> _Storage:
        """A storage, whose member must hold as many bytes as are claimed of it."""
        kind, storage, key, _, numel = pid[:5]
        if kind != "storage" or not isinstance(storage, _Named) or type(numel) is not int:
            raise pickle.UnpicklingError("a persistent id that is no storage")
        itemsize = _ITEM_SIZES[storage.name.rpartition(".")[2]]
        wanted = numel * itemsize
        held = self._storages
        fits = held.claim(key, wanted) if isinstance(held, _Claimed) else wanted <= held.get(key, 0)
        if numel < 0 or not fits:
            raise pickle.UnpicklingError("a storage larger than its member")
        return _Storage(numel * itemsize, itemsize)

    def load_newobj(self) -> None:
        """NEWOBJ, as a call."""
        args, named = self.stack.pop(), self.stack.pop()  # type: ignore[attr-defined]
        self.append(_called(named, args))  # type: ignore[attr-defined]

    dispatch[pickle.NEWOBJ[0]] = load_newobj

    def load_reduce(self) -> None:
        """REDUCE, of names alone."""
        self.made_object()
        args, named = self.stack.pop(), self.stack.pop()  # type: ignore[attr-defined]
        self.append(_called(named, args))  # type: ignore[attr-defined]

    dispatch[pickle.REDUCE[0]] = load_reduce

    def load_build(self) -> None:
        """BUILD, which here sets attributes of an OrderedDict (where a module keeps its version)."""
        self.stack.pop()  # type: ignore[attr-defined]
        if not isinstance(self.stack[-1], dict):  # type: ignore[attr-defined]
            raise pickle.UnpicklingError("attributes of something else than an OrderedDict")

    dispatch[pickle.BUILD[0]] = load_build


def _called(named: Any, args: Any) -> Any:
    if not isinstance(named, _Named) or not isinstance(args, tuple):
        raise pickle.UnpicklingError("a call of something else than a name")
    if named.make is not _keyed:  # whose keys are looked at one by one
        check_parts(args)
    return named(*args)


def _not_called(*args: Any) -> Any:
    raise pickle.UnpicklingError("a call of a dtype or a storage class, which would set memory aside")


def _value(*args: Any) -> _Value:
    return _Value()


def _keyed(pairs: Any = ()) -> dict[Any, Any]:
    """An OrderedDict, Counter or set of what is given."""
    for pair in pairs:
        check_parts(pair)
    return {}


def _encoded(text: Any = "", encoding: Any = "latin1") -> _Value:
    """Bytes as protocol 2 writes them. Other encodings make more of a text than it has, again and again."""
    if not isinstance(text, str | _Value) or encoding not in _LATIN:
        raise pickle.UnpicklingError("an encoding other than latin1")
    return _Value()


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> _Value:
    """A tensor, which must lie within its storage and have no more values than that.

    torch enlarges a storage that is too small, and a stride of 0 makes any number of values of one.
    """
    numbers = (offset, *size, *stride)
    if not isinstance(storage, _Storage) or len(size) != len(stride):
        raise pickle.UnpicklingError("a tensor without a storage")
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise pickle.UnpicklingError("a tensor of no size")
    itemsize = storage.itemsize
    if len(rest) > 2 and isinstance(rest[2], _Named):  # _rebuild_tensor_v3 names the dtype of plain bytes
        itemsize = getattr(torch, rest[2].name.rpartition(".")[2]).itemsize
    numel = math.prod(size)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if (numel and (last + 1) * itemsize > storage.num_bytes) or numel * itemsize > storage.num_bytes:
        raise pickle.UnpicklingError("a tensor larger than its storage")
    return _Value()


def _parameter(tensor: Any, *rest: Any) -> _Value:
    if not isinstance(tensor, _Value):
        raise pickle.UnpicklingError("a parameter without a tensor")
    return tensor


def _is_dtype(name: str) -> bool:
    return isinstance(getattr(torch, name, None), torch.dtype)


_MAKERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _keyed,
    "collections.Counter": _keyed,
    "builtins.set": _keyed,
    "builtins.complex": _value,
    "builtins.bytearray": _encoded,
    "_codecs.encode": _encoded,
    "torch.Size": _value,
    "torch.device": _value,
    "torch.serialization._get_layout": _value,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
}

_ITEM_SIZES: dict[str, int] = {
    **{name: dtype.itemsize for dtype, name in torch.storage._dtype_to_storage_type_map().items()},
    "UntypedStorage": 1,
}
