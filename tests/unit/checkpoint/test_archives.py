"""What torch saves passes, in both formats and inside another file; what it never writes does not."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from typing import Any

import pytest
import torch

from nemo_pi.checkpoint.archives import check_archive

VALUES: list[Any] = [
    {"a": torch.arange(6.0), "b": [1, ("c", None, True)], "c": {"d": 1e-3, "e": b"bytes"}},
    OrderedDict(weight=torch.zeros(3, 4)[:, 1:3], bias=torch.zeros(0), scalar=torch.tensor(1)),
    {"shared": (lambda x: [x, x.t(), x[1]])(torch.ones(2, 3)), "expanded": torch.ones(1).expand(1)},
    {
        "dtypes": [
            torch.zeros(2, dtype=dtype) for dtype in (torch.bfloat16, torch.bool, torch.int8, torch.uint16)
        ]
    },
    {
        "fp8": torch.zeros(2, dtype=torch.float8_e4m3fn),
        "device": torch.device("cpu"),
        "size": torch.Size([2]),
    },
    {"parameter": torch.nn.Parameter(torch.ones(2)), "set": {1, 2}, "complex": 1j, "array": bytearray(b"x")},
    torch.nn.Linear(2, 3).state_dict(),
    None,
]


def saved(value: Any, new: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=new)
    return stream.getvalue()


@pytest.mark.parametrize("value", VALUES)
def test_what_torch_saves_passes(value: Any) -> None:
    assert check_archive(io.BytesIO(saved(value))) is True


@pytest.mark.parametrize("value", [VALUES[0], VALUES[1], VALUES[6]])
def test_so_does_the_format_before_zip(value: Any) -> None:
    assert check_archive(io.BytesIO(saved(value, new=False))) is False


def test_an_archive_may_lie_in_a_file_of_several() -> None:
    first, second = saved(VALUES[0]), saved(VALUES[1])
    stream = io.BytesIO(first + second)
    check_archive(stream, (0, len(first)))
    check_archive(stream, (len(first), len(second)))
    with pytest.raises(Exception, match=r"larger|listing|zip|bytes"):
        check_archive(stream, (0, len(first) - 1))


def test_storages_of_the_older_format_fit_into_the_file_together() -> None:
    data = saved({"a": torch.zeros(200)}, new=False)
    claimed = data.replace(b"K\xc8", b"M\xff\xff")  # how many numbers, in the pickle
    assert claimed != data
    with pytest.raises(pickle.UnpicklingError, match="larger"):
        check_archive(io.BytesIO(claimed))


def test_members_are_neither_packed_nor_counted_twice() -> None:
    whole = zipfile.ZipFile(io.BytesIO(saved(VALUES[0])))
    for how in ("packed", "twice"):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as made:
            for name in whole.namelist():
                kind = zipfile.ZIP_DEFLATED if how == "packed" else zipfile.ZIP_STORED
                made.writestr(name, whole.read(name), kind)
            if how == "twice":
                with pytest.warns(UserWarning):
                    made.writestr(whole.namelist()[0], b"")
        with pytest.raises(ValueError, match=r"compressed|several"):
            check_archive(io.BytesIO(stream.getvalue()))


def test_something_behind_the_listing_is_refused() -> None:
    """zipfile would look for the listing further ahead than torch does."""
    with pytest.raises((ValueError, zipfile.BadZipFile)):
        check_archive(io.BytesIO(saved(VALUES[0]) + b"x" * 30))


def test_the_listing_lies_where_the_last_words_that_count_say() -> None:
    """Of two records of its place, torch reads the 64-bit one, wherever that points; zipfile looks nearby."""
    data = bytearray(saved(VALUES[0]))
    assert data.rfind(b"PK\6\7") > 0
    place = data.rfind(b"PK\6\6") + 48
    data[place : place + 8] = (16).to_bytes(8, "little")
    with pytest.raises((ValueError, zipfile.BadZipFile), match=r"listing|bytes|offset|directory"):
        check_archive(io.BytesIO(bytes(data)))


def test_an_archive_without_64_bit_records_passes() -> None:
    whole, stream = zipfile.ZipFile(io.BytesIO(saved(VALUES[0]))), io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        for name in whole.namelist():
            made.writestr(name, whole.read(name))
    assert b"PK\6\7" not in stream.getvalue()
    assert check_archive(stream) is True
