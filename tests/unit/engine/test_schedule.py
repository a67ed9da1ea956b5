"""Learning rates at the boundaries, and against torch's own schedulers."""

from __future__ import annotations

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR

from nemo_pi.engine.schedule import LearningRateSchedule


def test_the_papers_warm_up() -> None:
    """20 steps from 10% of the peak, then constant (arXiv 2306.15595, section 3.1)."""
    schedule = LearningRateSchedule(lr=2e-5)
    assert schedule.at(0) == pytest.approx(2e-6)
    assert schedule.at(10) == pytest.approx(1.1e-5)
    assert schedule.at(19) == pytest.approx(2e-5 * (0.1 + 0.9 * 19 / 20))
    assert [schedule.at(step) for step in (20, 21, 1000, 10**6)] == [2e-5] * 4


def test_warm_up_equals_torchs_linear_warm_up() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=3e-4)
    theirs = LinearLR(optimizer, start_factor=0.25, total_iters=8)
    ours = LearningRateSchedule(lr=3e-4, warmup_steps=8, warmup_start_fraction=0.25)
    for step in range(12):
        assert ours.at(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        theirs.step()


def test_cosine_equals_torchs() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1e-3)
    theirs = CosineAnnealingLR(optimizer, T_max=30, eta_min=1e-5)
    ours = LearningRateSchedule(
        lr=1e-3, warmup_steps=5, name="cosine", max_steps=40, constant_steps=5, min_lr=1e-5
    )
    for step in range(31):
        assert ours.at(5 + step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_decay_begins_at_the_peak_and_ends_at_the_minimum(decay: str) -> None:
    schedule = LearningRateSchedule(
        lr=1.0, warmup_steps=10, name=decay, max_steps=100, constant_steps=20, min_lr=0.25
    )
    assert schedule.at(10) == 1.0
    assert schedule.at(45) == pytest.approx(0.625)
    assert [schedule.at(step) for step in (80, 99, 100, 500)] == pytest.approx([0.25] * 4)
    rates = [schedule.at(step) for step in range(10, 100)]
    assert rates == sorted(rates, reverse=True)


def test_linear_falls_by_equal_amounts() -> None:
    schedule = LearningRateSchedule(lr=1.0, warmup_steps=0, name="linear", max_steps=4)
    assert [schedule.at(step) for step in range(5)] == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])


def test_no_warm_up_starts_at_the_peak() -> None:
    assert LearningRateSchedule(lr=0.5, warmup_steps=0).at(0) == 0.5
