"""The zig-zag split, pinned by literal numbers."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nemo_pi.errors import DataError
from nemo_pi.parallel.context import slice_batch, split_rows, zigzag_chunks


def test_boundaries_0_4_8_over_two_ranks() -> None:
    """Each document is split by itself, its positions with it."""
    batch = {
        "tokens": torch.arange(8)[None],
        "position_ids": torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]]),
        "cu_seqlens": torch.tensor([[0, 4, 8]]),
    }
    shards = [slice_batch(batch, split_rows([(0, 4, 8)], 2, rank)) for rank in range(2)]
    assert shards[0]["position_ids"].tolist() == [[0, 3, 0, 3]]
    assert shards[0]["tokens"].tolist() == [[0, 3, 4, 7]]
    assert shards[1]["position_ids"].tolist() == [[1, 2, 1, 2]]
    assert shards[1]["tokens"].tolist() == [[1, 2, 5, 6]]
    assert all(shard["cu_seqlens"].tolist() == [[0, 4, 8]] for shard in shards)


def test_a_row_over_two_and_four_ranks() -> None:
    tokens_BS = torch.arange(16)[None]
    two = [split_rows([(0, 16)], 2, rank).take(tokens_BS)[0].tolist() for rank in range(2)]
    assert two == [[0, 1, 2, 3, 12, 13, 14, 15], [4, 5, 6, 7, 8, 9, 10, 11]]
    four = [split_rows([(0, 16)], 4, rank).take(tokens_BS)[0].tolist() for rank in range(4)]
    assert four == [[0, 1, 14, 15], [2, 3, 12, 13], [4, 5, 10, 11], [6, 7, 8, 9]]


def test_chunks_join_where_they_touch() -> None:
    assert zigzag_chunks((0, 16), 4, 0) == ((0, 2), (14, 16))
    assert zigzag_chunks((0, 16), 4, 3) == ((6, 10),)
    assert zigzag_chunks((0, 4, 8), 2, 0) == ((0, 1), (3, 5), (7, 8))
    assert zigzag_chunks((0, 3, 7), 1, 0) == ((0, 7),)


def test_documents_of_other_lengths_are_split_with_their_row() -> None:
    """5 + 3 tokens do not divide by 4, the row's 8 do; rows are split each in its own way."""
    split = split_rows([(0, 5, 8), (0, 4, 8), (0, 8)], 2, 0)
    assert split.take(torch.arange(8).expand(3, 8)).tolist() == [[0, 1, 6, 7], [0, 3, 4, 7], [0, 1, 6, 7]]


@given(
    size=st.integers(1, 5),
    rows=st.lists(st.lists(st.integers(1, 20), min_size=1, max_size=4), min_size=1, max_size=3),
    per_document=st.booleans(),
)
def test_every_token_is_held_once_and_work_is_equal(
    size: int, rows: list[list[int]], per_document: bool
) -> None:
    """Shares put together and restored are the rows; where documents divide, so does the causal work."""
    unit = 2 * size if per_document else 1
    boundaries = []
    length = max(unit * sum(row) for row in rows)
    length += -length % (2 * size)
    for row in rows:
        ends = [unit * sum(row[: number + 1]) for number in range(len(row))]
        boundaries.append((0, *ends, *([length] if ends[-1] < length else [])))
    whole_BS = torch.randn(len(rows), length)
    splits = [split_rows(boundaries, size, rank) for rank in range(size)]
    shards = [split.take(whole_BS) for split in splits]
    assert {shard.shape for shard in shards} == {(len(rows), length // size)}
    assert torch.equal(splits[0].restore(torch.cat(shards, dim=1)), whole_BS)
    if per_document:
        # Keys that a query of its document sees: itself and those before it.
        work_BS = torch.stack(
            [torch.cat([torch.arange(1, b - a + 1) for a, b in pairwise(row)]) for row in boundaries]
        )
        assert len({int(split.take(work_BS).sum()) for split in splits}) == 1


def test_lengths_that_do_not_divide_are_refused_with_both_numbers() -> None:
    with pytest.raises(DataError, match=r"multiple of 2 × context_parallel_size = 4.*given 6 tokens"):
        split_rows([(0, 6)], 2, 0)
    with pytest.raises(DataError, match=r"given 3 tokens \(from 5 to 8"):
        zigzag_chunks((0, 4, 5, 8)[2:], 2, 0)
