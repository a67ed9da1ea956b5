"""Pairs appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

from nemo_pi.data.indexed import open_indexed, read_header
from nemo_pi.data.writer import PairWriter
from nemo_pi.errors import DataError


def array(*ids: int) -> np.ndarray:
    return np.array(ids, dtype=np.int32)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_499, np.uint16), (65_500, np.int32)])
def test_pair_has_final_names_only_after_commit(tmp_path: Path, vocab_size: int, dtype: type) -> None:
    writer = PairWriter(str(tmp_path / "new" / "a"), vocab_size)
    writer.add_document(array(1, vocab_size - 1))
    writer.add_document(array(3))
    writer.finish("input")
    assert not {"a.bin", "a.idx"} & set(names(tmp_path / "new"))
    writer.commit()
    writer.discard()
    assert names(tmp_path / "new") == ["a.bin", "a.idx"]
    indexed = open_indexed(tmp_path / "new" / "a")
    assert [list(indexed[i]) for i in range(2)] == [[1, vocab_size - 1], [3]]
    assert read_header(tmp_path / "new" / "a.idx").dtype is dtype


@pytest.mark.parametrize("vocab_size", [65_499, 65_500])
def test_files_are_those_of_megatron_s_builder(tmp_path: Path, vocab_size: int) -> None:
    documents = [array(1, vocab_size - 1), array(3), array(*range(100))]
    ours = PairWriter(str(tmp_path / "ours"), vocab_size)
    theirs = IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=DType.optimal_dtype(vocab_size))
    for ids in documents:
        ours.add_document(ids)
        theirs.add_document(torch.from_numpy(ids), [ids.size])
    ours.finish("input")
    ours.commit()
    theirs.finalize(str(tmp_path / "theirs.idx"))
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"ours{suffix}").read_bytes() == (tmp_path / f"theirs{suffix}").read_bytes()


def test_discard_leaves_nothing(tmp_path: Path) -> None:
    writer = PairWriter(str(tmp_path / "a"), 10)
    writer.add_document(array(1))
    writer.finish("input")
    writer.discard()
    assert names(tmp_path) == []


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
def test_existing_output_is_refused(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_bytes(b"mine")
    with pytest.raises(DataError, match="--overwrite"):
        PairWriter(str(tmp_path / "a"), 10)
    assert (tmp_path / f"a{suffix}").read_bytes() == b"mine" and len(names(tmp_path)) == 1


def test_overwrite_replaces_both(tmp_path: Path) -> None:
    for token in (1, 2):
        writer = PairWriter(str(tmp_path / "a"), 10, overwrite=True)
        writer.add_document(array(*[token] * token))
        writer.finish("input")
        writer.commit()
    indexed = open_indexed(tmp_path / "a")
    assert list(indexed[0]) == [2, 2]


def test_nothing_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="some text"):
        PairWriter(str(tmp_path / "a"), 10).finish("input")


@pytest.mark.parametrize("bad", [-1, 10, 70_000])
def test_ids_that_would_wrap_are_refused(tmp_path: Path, bad: int) -> None:
    with pytest.raises(DataError, match="below 10"):
        PairWriter(str(tmp_path / "a"), 10).add_document(array(1, bad))


def test_lost_bytes_are_noticed_before_the_pair_is_named(tmp_path: Path) -> None:
    writer = PairWriter(str(tmp_path / "a"), 10)
    writer.add_document(array(1, 2, 3))
    writer._lengths[-1] = 4  # as if the last token never reached the disk
    with pytest.raises(DataError, match="bytes"):
        writer.finish("input")
    writer.discard()
    assert names(tmp_path) == []
