"""Opening indexed files: whole ones as megatron-core reads them, everything else refused."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder

from nemo_pi.data.indexed import check_token_ids, open_indexed, read_header, read_index, validate_pair
from nemo_pi.errors import DataError

DOCUMENTS = [[5, 6, 7], [8], [9, 10, 11, 12]]


@pytest.fixture
def pair(tmp_path: Path, write_pair: Callable[..., str]) -> str:
    return write_pair(tmp_path / "pair", DOCUMENTS)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.int64])
def test_whole_pair_opens_as_megatron_reads_it(
    tmp_path: Path, write_pair: Callable[..., str], dtype: type
) -> None:
    prefix = write_pair(tmp_path / "a", DOCUMENTS, dtype)
    ours, theirs = open_indexed(prefix, vocab_size=13), IndexedDataset(prefix)
    assert [list(ours[i]) for i in range(3)] == [list(theirs[i]) for i in range(3)] == DOCUMENTS
    assert read_header(Path(f"{prefix}.idx")).dtype is dtype


def test_an_index_is_what_megatron_reads_of_it(pair: str) -> None:
    index, theirs = read_index(pair, vocab_size=13), IndexedDataset(pair)
    assert index.path_prefix == theirs.path_prefix
    assert index.sequence_lengths.tolist() == theirs.sequence_lengths.tolist() == [3, 1, 4]
    assert index.document_indices.tolist() == theirs.document_indices.tolist()
    with pytest.raises(DataError, match="id 12 at token 7"):
        read_index(pair, vocab_size=12)


def test_several_sequences_per_document_and_empty_ones(tmp_path: Path) -> None:
    builder = IndexedDatasetBuilder(str(tmp_path / "a.bin"), dtype=np.int32)
    for sequence in ([1, 2], [], [3]):
        builder.add_item(torch.tensor(sequence, dtype=torch.int64))
    builder.end_document()
    builder.finalize(str(tmp_path / "a.idx"))
    header = validate_pair(tmp_path / "a")
    assert (header.num_sequences, header.num_marks) == (3, 2)


def test_sequences_that_are_mostly_empty_are_refused(tmp_path: Path) -> None:
    """Two million without a token before the one that holds them all."""
    empty, tokens = 1 << 21, (1 << 20) + 1
    lengths = np.zeros(empty + 1, np.int32)
    lengths[-1] = tokens
    with (tmp_path / "a.idx").open("wb") as stream:
        stream.write(struct.pack("<9sQBQQ", b"MMIDIDX\x00\x00", 1, 8, empty + 1, 2))
        stream.write(lengths.tobytes() + np.zeros(empty + 1, np.int64).tobytes())
        stream.write(np.array([0, empty + 1], np.int64).tobytes())
    with (tmp_path / "a.bin").open("wb") as stream:
        stream.truncate(tokens * 2)
    with pytest.raises(DataError, match="not mostly empty"):
        validate_pair(tmp_path / "a")


def test_multimodal_index_is_accepted(tmp_path: Path) -> None:
    builder = IndexedDatasetBuilder(str(tmp_path / "a.bin"), dtype=np.int32, multimodal=True)
    builder.add_document(torch.tensor([1, 2, 3]), [3], [0])
    builder.finalize(str(tmp_path / "a.idx"))
    indexed = open_indexed(tmp_path / "a")
    assert list(indexed[0]) == [1, 2, 3]


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
@pytest.mark.parametrize("change", [-1, +1, -4, +4])
def test_every_change_of_length_is_refused(pair: str, suffix: str, change: int) -> None:
    path = Path(pair + suffix)
    raw = path.read_bytes()
    path.write_bytes(raw[:change] if change < 0 else raw + b"\0" * change)
    with pytest.raises(DataError, match="bytes") as caught:
        open_indexed(pair)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("length", [0, 8, 33])
def test_index_shorter_than_its_header_is_refused(pair: str, length: int) -> None:
    path = Path(f"{pair}.idx")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DataError, match="magic"):
        open_indexed(pair)


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (0, b"PK", "magic"),
        (9, struct.pack("<Q", 2), "version"),
        (17, b"\x07", "dtype"),  # float32
        (17, b"\x09", "dtype"),  # no code at all
        (17, b"\x05", "offsets"),  # int64 where int32 was written
        (18, struct.pack("<Q", 4), "bytes"),  # one more sequence than there is
        (18, struct.pack("<Q", 2**63), "bytes"),
        (26, struct.pack("<Q", 5), "bytes"),
        (34, struct.pack("<i", -3), "negative"),
        (34, struct.pack("<i", 4), "offsets"),
        (34 + 8, struct.pack("<i", 3), "bytes, as"),  # the last length: more tokens are promised than given
        (34 + 8, struct.pack("<i", 5), "bytes, as"),
        (46, struct.pack("<q", 4), "offsets"),
        (54, struct.pack("<q", 0), "offsets"),
        (70, struct.pack("<q", 1), "marks"),
        (78, struct.pack("<q", 4), "marks"),
        (94, struct.pack("<q", 2), "marks"),
    ],
)
def test_every_foreign_field_is_refused(pair: str, offset: int, value: bytes, reason: str) -> None:
    path = Path(f"{pair}.idx")
    raw = bytearray(path.read_bytes())
    raw[offset : offset + len(value)] = value
    path.write_bytes(raw)
    with pytest.raises(DataError, match=reason):
        open_indexed(pair)


def test_pair_without_tokens_is_refused(tmp_path: Path, write_pair: Callable[..., str]) -> None:
    for documents in ([], [[]]):
        with pytest.raises(DataError, match="at least one token"):
            open_indexed(write_pair(tmp_path / "a", documents))


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
def test_missing_file_is_named(pair: str, suffix: str) -> None:
    Path(pair + suffix).unlink()
    with pytest.raises(DataError, match=f"no file .*{suffix}"):
        open_indexed(pair)


@pytest.mark.parametrize("chunk_tokens", [1, 3, 100])
@pytest.mark.parametrize("place", range(8))
def test_id_outside_the_vocabulary_is_found_wherever_it_stands(
    tmp_path: Path, write_pair: Callable[..., str], chunk_tokens: int, place: int
) -> None:
    for bad in (100, -1):
        ids = [99] * 8
        ids[place] = bad
        prefix = write_pair(tmp_path / "a", [ids[:3], ids[3:]])
        with pytest.raises(DataError, match=f"id {bad} at token {place}"):
            check_token_ids(prefix, 100, chunk_tokens)


@pytest.mark.parametrize(("dtype", "largest"), [(np.uint8, 255), (np.uint16, 65_535), (np.int16, 32_767)])
def test_largest_id_of_an_element_type(
    tmp_path: Path, write_pair: Callable[..., str], dtype: type, largest: int
) -> None:
    prefix = write_pair(tmp_path / "a", [[1, largest]], dtype)
    check_token_ids(prefix, largest + 1)
    for vocab_size in (largest, 100):
        with pytest.raises(DataError, match=f"id {largest} at token 1"):
            check_token_ids(prefix, vocab_size)


def test_vocabulary_is_checked_at_open_only_when_asked(pair: str) -> None:
    open_indexed(pair)
    open_indexed(pair, vocab_size=13)
    with pytest.raises(DataError, match="id 12 at token 7"):
        open_indexed(pair, vocab_size=12)


def test_home_folder_is_understood(pair: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(Path(pair).parent))
    assert len(open_indexed("~/pair")) == 3
