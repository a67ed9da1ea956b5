"""An unpickler whose work is bounded by the length of what it reads.

A pickle is a program, and a short one can ask for much: a field that claims gigabytes, a container at every
byte, a dictionary key of tuples that share their halves (forty levels take 2^40 steps to hash). Which classes
a pickle may name is for subclasses to say.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, BinaryIO, ClassVar

from nemo_pi.bounded.files import BoundedReader

MOST_FIELD_BYTES = 1 << 20
"""Of one field: names of tensors and files are the longest; protocol 4 groups fields by 64 KiB."""
MOST_KEY_PARTS = 1_000
"""Values within one key or one call's arguments; a tensor has at most 64 dimensions."""
# torch's own listings take some six bytes for each object they make.
_BYTES_PER_OBJECT = 3
_OBJECTS_FREE = 1_000

_Load = Callable[[Any], None]


class BoundedUnpickler(pickle._Unpickler):
    """Python's unpickler within bounds.

    The Python implementation, not the C one, whose instructions cannot be guarded one by one.

    Args:
        stream: the pickle.
        num_bytes: its length.
        most_field: bytes of one field.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def __init__(
        self, stream: BinaryIO | BoundedReader, num_bytes: int, most_field: int = MOST_FIELD_BYTES
    ) -> None:
        if not isinstance(stream, BoundedReader):
            stream = BoundedReader(stream, most_field)
        super().__init__(stream)
        self._objects_left = _OBJECTS_FREE + num_bytes // _BYTES_PER_OBJECT

    def made_object(self) -> None:
        """Counts a container or an instance against what the pickle's length allows."""
        self._objects_left -= 1
        if self._objects_left < 0:
            raise pickle.UnpicklingError("more objects than its length can describe")

    def check_call(self) -> None:
        """Looks at the arguments on top of the stack, which a class may hash, print or compare."""
        check_parts(self.stack[-1])  # type: ignore[attr-defined]

    def load_setitem(self) -> None:
        """SETITEM, whose key is hashed."""
        check_parts(self.stack[-2])  # type: ignore[attr-defined]
        super().load_setitem()  # type: ignore[misc]

    dispatch[pickle.SETITEM[0]] = load_setitem

    def load_setitems(self) -> None:
        """SETITEMS, likewise."""
        for key in self.stack[::2]:  # type: ignore[attr-defined]
            check_parts(key)
        super().load_setitems()  # type: ignore[misc]

    dispatch[pickle.SETITEMS[0]] = load_setitems


def check_parts(value: Any, most: int = MOST_KEY_PARTS) -> None:
    """Refuses a value whose hash takes long: one of more parts than `most`, shared ones counted each time.

    Raises:
        pickle.UnpicklingError: it has more.
    """
    waiting, seen = [value], 0
    while waiting:
        part, seen = waiting.pop(), seen + 1
        if seen > most:
            raise pickle.UnpicklingError(f"a key or arguments of more than {most:,} parts")
        if isinstance(part, tuple | list):
            waiting.extend(part[: most + 1])
        elif not isinstance(part, type) and isinstance(own := getattr(part, "__dict__", None), dict):
            waiting.extend(own.values())  # a data class hashes its fields, however deep they are


def _guarded(load: _Load, *checks: _Load) -> _Load:
    def checked(unpickler: Any) -> None:
        for check in checks:
            check(unpickler)
        load(unpickler)

    return checked


def _refused(unpickler: Any) -> None:
    raise pickle.UnpicklingError("an instruction that torch's files do not have")


def _guard(dispatch: dict[int, Any]) -> None:
    calls: tuple[bytes, ...] = (pickle.REDUCE, pickle.NEWOBJ, pickle.NEWOBJ_EX)
    containers: tuple[bytes, ...] = (pickle.EMPTY_LIST, pickle.LIST, pickle.EMPTY_DICT, pickle.DICT)
    containers += (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3)
    for code in (*calls, *containers):
        checks = [BoundedUnpickler.made_object]
        if code in calls:
            checks.append(BoundedUnpickler.check_call)
        dispatch[code[0]] = _guarded(dispatch[code[0]], *checks)
    # Sets hash what they hold, INST and OBJ call what they name, DICT keys its items, BYTEARRAY8 takes its
    # length at its word; none of them is in a file of torch's or Megatron's.
    others: tuple[bytes, ...] = (
        pickle.EMPTY_SET,
        pickle.ADDITEMS,
        pickle.FROZENSET,
        pickle.INST,
        pickle.OBJ,
        pickle.DICT,
    )
    others += (pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER)
    for code in (*others, pickle.EXT1, pickle.EXT2, pickle.EXT4):
        dispatch[code[0]] = _refused


_guard(BoundedUnpickler.dispatch)
