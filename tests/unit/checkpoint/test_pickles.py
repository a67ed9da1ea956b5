"""Unpickling whose work is bounded by the length of the pickle."""

from __future__ import annotations

import io
import pickle
from typing import Any

import pytest

from nemo_pi.checkpoint.pickles import BoundedUnpickler, check_parts


def load(data: bytes) -> Any:
    return BoundedUnpickler(io.BytesIO(data), len(data)).load()


PLAIN = {"a": [1, 2.5, None, True, ("b", b"c")], ("k", 1): {"d": 2**70, "e": "x" * 3000}, 3: ()}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_are_read(protocol: int) -> None:
    assert load(pickle.dumps(PLAIN, protocol=protocol)) == PLAIN


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (pickle.BINBYTES8 + (1 << 40).to_bytes(8, "little"), "field"),
        (pickle.BYTEARRAY8 + (1 << 40).to_bytes(8, "little"), "instruction"),
        (pickle.EMPTY_SET + b".", "instruction"),
        (pickle.MARK + b"ios\nsystem\n.", "instruction"),
        (pickle.EMPTY_LIST * 5000 + b".", "more objects"),
        (b"}N" + b"\x85" * 1500 + b"Ns.", "parts"),
    ],
)
def test_what_asks_for_more_is_refused(data: bytes, words: str) -> None:
    with pytest.raises((pickle.UnpicklingError, ValueError), match=words):
        load(data)


def test_shared_parts_count_each_time() -> None:
    value: Any = (1, 2)
    check_parts(value)
    for _ in range(12):
        value = (value, value)
    with pytest.raises(pickle.UnpicklingError, match="parts"):
        check_parts(value)
    check_parts(tuple(range(900)))
