"""Loaders hand out this rank's share of each global batch, in the data's own order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_pi.data.datasets import build_datasets
from nemo_pi.training.loaders import training_loader, validation_loader
from tests.unit.model.models import SHAPE
from tests.unit.training.runs import LENGTH, resolved

pytestmark = pytest.mark.usefixtures("one_rank")


def datasets_of(inputs: Path, **changes: Any) -> tuple[Any, Any, Any]:
    run = resolved(inputs, inputs / "logs", **changes)
    return build_datasets(
        run.data_mapping(),
        seq_length=LENGTH,
        vocab_size=SHAPE.vocab_size,
        seed=run.seed,
        num_samples=(100, 100, 0),
    )


@pytest.mark.parametrize("consumed", [0, 4, 12])
def test_batches_are_consecutive_samples_behind_the_consumed_ones(inputs: Path, consumed: int) -> None:
    run = resolved(inputs, inputs / "logs", model__micro_batch_size=2)
    dataset = datasets_of(inputs)[0]
    batches = list(training_loader(run, consumed))
    assert len(batches) == (run.max_steps * 4 - consumed) // 4
    for number, batch in enumerate(batches):
        assert set(batch) == {"tokens", "labels", "loss_mask", "position_ids", "cu_seqlens"}
        for row in range(4):
            expected = dataset[consumed + 4 * number + row]
            assert all(torch.equal(batch[key][row], expected[key]) for key in batch)


def test_validation_reads_its_own_split(inputs: Path) -> None:
    run = resolved(inputs, inputs / "logs", trainer__limit_val_batches=2)
    loader = validation_loader(run)
    assert loader is not None
    batches, dataset = list(loader), datasets_of(inputs)[1]
    assert len(batches) == 2
    assert torch.equal(torch.cat([b["tokens"] for b in batches])[5], dataset[5]["tokens"])


def test_validation_may_be_off_or_without_data(inputs: Path) -> None:
    assert validation_loader(resolved(inputs, inputs / "logs")) is None
    no_split = {"trainer__limit_val_batches": 2, "model__data__splits_string": "1,0,0"}
    assert validation_loader(resolved(inputs, inputs / "logs", **no_split)) is None


def test_the_seed_decides_the_order(inputs: Path) -> None:
    first, again, other = (
        next(iter(training_loader(resolved(inputs, inputs / "logs", model__seed=seed), 0)))["tokens"]
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
