"""Work of a step counted by hand, and the speed that is measured."""

from __future__ import annotations

import pytest
import torch

from nemo_pi.config.plan import render_plan
from nemo_pi.config.step_time import flops_of_a_step, flops_per_second, seconds_of_a_step
from nemo_pi.engine.throughput import training_flops_per_token
from tests.unit.config.builders import SHAPE, run_of

FULL = {"activations_checkpoint_granularity": "full"}
SPARED = {
    "activations_checkpoint_granularity": "selective",
    "activations_checkpoint_modules": ["all_but_core_attn"],
}
TOKENS, LAYERS, WIDTH, FFN = 4096, 4, 256, 688
MLP = 2 * LAYERS * 3 * WIDTH * FFN * TOKENS
ATTENTION = 2 * LAYERS * 2 * 256 * (TOKENS // 2) * TOKENS
PROJECTIONS = 2 * LAYERS * (WIDTH * (256 + 2 * 128) + 256 * WIDTH) * TOKENS


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({}, 0),
        (FULL, MLP + ATTENTION + PROJECTIONS),
        (SPARED, MLP + PROJECTIONS),
        ({"mlp_chunk_size": 64}, MLP),
        (FULL | {"mlp_chunk_size": 64}, 2 * MLP + ATTENTION + PROJECTIONS),
    ],
)
def test_work_that_is_done_again_counts(changes: dict[str, object], again: int) -> None:
    once = training_flops_per_token(SHAPE, TOKENS) * TOKENS
    assert flops_of_a_step(run_of(changes)) == pytest.approx(once + again)


def test_nothing_is_measured_where_that_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEMO_PI_RACE", "0")
    assert seconds_of_a_step(run_of()) is None and "\n  time " not in render_plan(run_of())


def test_time_is_work_by_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEMO_PI_RACE", "1")
    monkeypatch.setenv("NEMO_PI_CACHE", "0")
    speed = flops_per_second(torch.float32)
    assert speed is not None and 1e8 < speed < 1e14
    assert flops_per_second(torch.float32) == speed  # known from then on
    one, two = (seconds_of_a_step(run_of({"global_batch_size": size})) for size in (1, 2))
    assert one is not None and two == pytest.approx(2 * one)
    staged = run_of(
        {"pipeline_model_parallel_size": 2, "global_batch_size": 4},
        world_size=2,
        trainer={"max_steps": 100, "num_nodes": 2},
    )
    # Half the layers each; one of five turns is spent waiting.
    assert seconds_of_a_step(staged) == pytest.approx(4 * one * 0.5 * 1.25)
    assert "by the speed of matrix products" in render_plan(run_of())
