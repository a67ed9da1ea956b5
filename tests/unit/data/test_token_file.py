"""Tokens read from a file that may change under the reader."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from nemo_pi.data.token_file import TokenFile
from nemo_pi.errors import DataError


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.int64])
def test_it_reads_what_numpy_wrote(dtype: type, tmp_path: Path) -> None:
    tokens = np.arange(100).astype(dtype)
    tokens.tofile(tmp_path / "a.bin")
    file = TokenFile(tmp_path / "a.bin", dtype)
    for first, count in ((0, 100), (0, 0), (17, 5), (99, 1), (100, 0)):
        read = file.read(first, count)
        assert read.dtype == np.int64 and read.tolist() == tokens[first : first + count].tolist()


def test_a_truncated_file_is_an_error_with_a_name(tmp_path: Path) -> None:
    """A map of it would end the process."""
    np.arange(5000, dtype=np.int32).tofile(tmp_path / "a.bin")
    file = TokenFile(tmp_path / "a.bin", np.int32)
    assert file.read(0, 10).tolist() == list(range(10))
    os.truncate(tmp_path / "a.bin", 80)
    assert file.read(0, 20).tolist() == list(range(20)), "what is still there"
    with pytest.raises(DataError, match=r"a\.bin: required at least 16400 bytes.*given 80 bytes"):
        file.read(4000, 100)


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file|No such file"):
        TokenFile(tmp_path / "a.bin", np.int32).read(0, 1)


def test_it_is_opened_anew_in_another_process(tmp_path: Path) -> None:
    np.arange(10, dtype=np.int32).tofile(tmp_path / "a.bin")
    file = TokenFile(tmp_path / "a.bin", np.int32)
    file.read(0, 1)
    assert pickle.loads(pickle.dumps(file)).read(3, 2).tolist() == [3, 4]
