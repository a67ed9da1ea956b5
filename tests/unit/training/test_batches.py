"""Micro-batches and document boundaries."""

from __future__ import annotations

import pytest
import torch

from nemo_pi.data.collate import collate
from nemo_pi.training.batches import document_boundaries, micro_batches
from tests.unit.training.loops import random_batch

CPU = torch.device("cpu")


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_micro_batches_are_consecutive_and_complete(size: int) -> None:
    batch = random_batch(rows=6)
    parts = list(micro_batches(batch, size, CPU))
    assert len(parts) == 6 // size
    assert all(part["tokens"].size(0) == size for part in parts)
    for key, value in batch.items():
        assert torch.equal(torch.cat([part[key] for part in parts]), value)


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
