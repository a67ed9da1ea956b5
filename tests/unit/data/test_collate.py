"""Batches, through a DataLoader with processes of its own too."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch.utils.data import DataLoader

from nemo_pi.data.collate import collate
from nemo_pi.data.datasets import build_datasets
from nemo_pi.data.sampler import ConsecutiveSampler


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loader_gives_stacked_samples(numbered: Callable[[Sequence[int]], str], num_workers: int) -> None:
    cfg = {"data_prefix": numbered([3, 11, 7] * 9), "reset_attention_mask": True}
    train = build_datasets(cfg, seq_length=8, vocab_size=None, seed=0, num_samples=(48, 0, 0))[0]
    assert train is not None
    sampler = ConsecutiveSampler(48, 12, 2, 1, 3, 12)
    loader = DataLoader(train, batch_sampler=sampler, collate_fn=collate, num_workers=num_workers)
    batches = list(loader)
    assert len(batches) == len(sampler) == 6
    for indices, batch in zip(sampler, batches, strict=True):
        for name in ("tokens", "labels", "loss_mask", "position_ids", "cu_seqlens"):
            assert torch.equal(batch[name], torch.stack([train[i][name] for i in indices]))
    assert batches[0]["cu_seqlens"].shape == (2, 9)
