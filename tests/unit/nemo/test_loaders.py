"""Loaders hand out this rank's share of each global batch, in the data's own order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_pi.data.datasets import build_datasets
from nemo_pi.nemo.loaders import training_loader, validation_loader
from tests.unit.model.models import SHAPE
from tests.unit.nemo.runs import LENGTH, resolved

pytestmark = pytest.mark.usefixtures("one_rank")


def datasets_of(inputs: Path, **changes: Any) -> tuple[Any, Any, Any]:
    run = resolved(inputs, inputs / "logs", **changes)
    return build_datasets(
        run.data_mapping(),
        seq_length=LENGTH,
        vocab_size=SHAPE.vocab_size,
        seed=run.seed,
        num_samples=(100, 100, 0),
        pose=run.pose,
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


POSES = [
    {"sampler": "paper"},
    {"sampler": "paper", "content_offset": "aligned"},
    {"sampler": "released"},
    {"sampler": "contiguous", "chunks": 3},
    {"sampler": "random"},
]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("pose", [None, *POSES], ids=str)
@pytest.mark.parametrize("workers", [0, 2])
def test_the_next_ten_batches_after_a_resume_are_bit_equal(
    inputs: Path, pose: dict[str, Any] | None, packed: bool, workers: int
) -> None:
    """In the middle of an epoch, and on into the next."""
    if packed and pose is not None:
        pose = {"content_offset": "zero", **pose}
        if pose["content_offset"] != "zero" or pose["sampler"] == "released":
            return
    if workers and pose not in (None, POSES[0]):
        return
    changes = {"trainer__max_steps": 40, "model__data__pose": pose, "model__data__pack_documents": packed}
    run = resolved(inputs, inputs / "logs", **changes, model__data__num_workers=workers)
    whole = list(training_loader(run, 0))
    consumed = 4 * 7
    epoch = datasets_of(inputs, **changes)[0].parts[0].samples_per_epoch
    assert consumed % epoch and consumed + 40 > epoch, "neither at an end, nor within one epoch"
    resumed = list(training_loader(run, consumed))[:10]
    for number, batch in enumerate(resumed):
        assert all(torch.equal(batch[key], whole[7 + number][key]) for key in batch)
    if pose is not None:
        assert all(int(batch["position_ids"].max()) >= LENGTH for batch in resumed)


def test_an_epoch_draws_other_skips_than_the_one_before(inputs: Path) -> None:
    dataset = datasets_of(inputs, model__data__pose={"content_offset": "zero"})[0]
    epoch = dataset.parts[0].samples_per_epoch
    first, second = (
        [dataset[place]["position_ids"].tolist() for place in range(start, start + epoch)]
        for start in (0, epoch)
    )
    assert len({tuple(row) for row in first}) > 0.9 * epoch
    assert sum(a == b for a, b in zip(first, second, strict=True)) <= 1


def test_data_parallel_ranks_share_out_the_same_samples(
    inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = resolved(inputs, inputs / "logs", model__data__pose={})
    one = next(iter(training_loader(run, 8)))
    halves = []
    for rank in range(2):
        monkeypatch.setattr("nemo_pi.parallel.groups.data_size", lambda: 2)
        monkeypatch.setattr("nemo_pi.parallel.groups.data_rank", lambda rank=rank: rank)
        two = replace(run, num_micro_batches=2)
        halves.append(next(iter(training_loader(two, 8))))
    for key in one:
        assert torch.equal(torch.cat([half[key] for half in halves]), one[key])
