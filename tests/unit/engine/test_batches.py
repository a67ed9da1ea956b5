"""Micro-batches and document boundaries."""

from __future__ import annotations

import pytest
import torch

from nemo_pi.data.collate import collate
from nemo_pi.engine.batches import document_boundaries, micro_batches
from nemo_pi.errors import DataError
from tests.unit.engine.loops import random_batch

CPU = torch.device("cpu")


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_micro_batches_are_consecutive_and_complete(size: int) -> None:
    batch = random_batch(rows=6)
    parts = list(micro_batches(batch, size, CPU))
    assert len(parts) == 6 // size
    assert all(part.tokens.size(0) == size for part in parts)
    for key in ("tokens", "labels", "loss_mask", "position_ids"):
        assert torch.equal(torch.cat([getattr(part, key) for part in parts]), batch[key])


def test_context_ranks_hold_each_token_once_with_all_that_belongs_to_it() -> None:
    """Rows of several documents; positions that skip; the length is that of the whole micro-batch."""
    batch = random_batch(rows=2, length=16)
    batch["cu_seqlens"][1, :3] = torch.tensor([0, 5, 16])
    batch["position_ids"][0, 7:] += 100
    ranks = [next(micro_batches(batch, 2, CPU, 2, rank)) for rank in range(2)]
    share = torch.tensor([[0, 1, 2, 3, 12, 13, 14, 15], [4, 5, 6, 7, 8, 9, 10, 11]])
    for rank, part in enumerate(ranks):
        for key in ("tokens", "labels", "loss_mask", "position_ids"):
            assert torch.equal(getattr(part, key), batch[key][:, share[rank]]), key
        assert part.seq_len == 116
        assert part.documents is not None and part.documents.starts == ((0, 16), (0, 5, 16))
        assert part.documents.split is not None and part.documents.split.rank == rank
    del batch["cu_seqlens"]
    assert next(micro_batches(batch, 2, CPU, 2, 0)).documents is None


@pytest.mark.parametrize("context_size", [1, 2])
def test_a_given_length_replaces_the_largest_position(context_size: int) -> None:
    batch = random_batch(rows=4)
    assert {part.seq_len for part in micro_batches(batch, 2, CPU, context_size)} == {16}
    given = micro_batches(batch, 2, CPU, context_size, rotary_length=4096)
    assert {part.seq_len for part in given} == {4096}


def test_rows_that_context_ranks_cannot_share_are_refused() -> None:
    with pytest.raises(DataError, match="multiple of 2 × context_parallel_size = 6"):
        next(micro_batches(random_batch(length=16), 2, CPU, 3, 0))


def boundaries_of(*rows: list[int], length: int = 6) -> object:
    padded = [row + [length] * (length + 1 - len(row)) for row in rows]
    cu_seqlens = torch.tensor(padded, dtype=torch.int32)
    tokens = torch.zeros(len(rows), length, dtype=torch.long)
    return document_boundaries({"tokens": tokens, "cu_seqlens": cu_seqlens})


def test_boundaries_lose_their_padding() -> None:
    found = boundaries_of([0, 2, 3, 6], [0, 6], [0, 1, 2, 3, 4, 5, 6])
    assert found is not None
    assert found.starts == ((0, 2, 3, 6), (0, 6), (0, 1, 2, 3, 4, 5, 6))  # type: ignore[attr-defined]


def test_whole_rows_need_no_boundaries() -> None:
    assert boundaries_of([0, 6], [0, 6]) is None
    assert document_boundaries({"tokens": torch.zeros(2, 6)}) is None


def test_reads_what_the_collator_writes() -> None:
    """A sample's cu_seqlens is int32[S+1], padded with S."""
    sample = {"tokens": torch.arange(4), "cu_seqlens": torch.tensor([0, 3, 4, 4, 4], dtype=torch.int32)}
    found = document_boundaries(collate([sample, sample]))
    assert found is not None and found.starts == ((0, 3, 4), (0, 3, 4))
