"""From a validated run to what is built, field by field."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.unit.config.builders import EVERYTHING, run_of

TRAINER = {"max_steps": 100, "gradient_clip_val": 0.5, "precision": "bf16"}


def test_every_field_arrives() -> None:
    run = run_of(EVERYTHING, trainer=TRAINER)
    settings = run.engine
    assert (settings.shape, settings.extension, settings.layout) == (run.shape, run.extension, run.parallel)
    assert settings.micro_batch_size == 2
    build, optim, rates = settings.build, settings.optim, run.schedule
    assert (build.params_dtype, build.init_method_std, build.backends.rotary) == (
        torch.bfloat16,
        0.007,
        "torch",
    )
    assert build.loss_chunk_tokens == 77
    assert run_of({"loss": "full"}).engine.build.loss_chunk_tokens is None
    assert (build.recompute.granularity, build.recompute.method, build.recompute.num_layers) == (
        "full",
        "block",
        3,
    )
    selective = {"activations_checkpoint_granularity": "selective", "activations_checkpoint_modules": ["mlp"]}
    assert run_of(selective).engine.build.recompute.modules == ("mlp",)
    assert (optim.lr, optim.adam_beta1, optim.adam_beta2) == (4e-4, 0.8, 0.9)
    assert (optim.adam_eps, optim.weight_decay) == (1e-6, 0.03)
    assert optim.clip_grad == 0.5
    assert (rates.lr, rates.warmup_steps, rates.warmup_start_fraction) == (4e-4, 7, 0.2)
    assert (rates.name, rates.max_steps, rates.constant_steps, rates.min_lr) == ("cosine", 60, 4, 1e-5)


def test_pose_trains_the_target_window_s_frequencies() -> None:
    """Skips end anywhere; frequencies that depend on a length are those of the whole target."""
    assert run_of({"pos_scaling_type": "dynamic"}).engine.rotary_length is None
    pose = {"data": {"data_prefix": ["/data/tokens"], "pose": {}}}
    assert run_of({"pos_scaling_type": "dynamic", **pose}).engine.rotary_length == 4096


def test_the_default_recipe_is_the_papers() -> None:
    """arXiv 2306.15595, section 3.1."""
    run = run_of()
    optim, rates = run.engine.optim, run.schedule
    assert (optim.adam_beta1, optim.adam_beta2, optim.weight_decay) == (0.9, 0.95, 0.0)
    assert [rates.at(step) / optim.lr for step in (0, 20, 99)] == pytest.approx([0.1, 1.0, 1.0])


@pytest.mark.parametrize("clip", [None, 0, 0.0])
def test_no_clipping(clip: float | None) -> None:
    assert run_of(trainer={"max_steps": 100, "gradient_clip_val": clip}).engine.optim.clip_grad == 0


@pytest.mark.parametrize(
    ("world_size", "model", "sharded"),
    [
        (1, {}, True),
        (2, {"global_batch_size": 2}, True),
        (2, {"tensor_model_parallel_size": 2}, True),
        (2, {"global_batch_size": 2, "use_distributed_optimizer": False}, False),
    ],
)
def test_optimizer_states_are_sharded_over_any_number_of_replicas(
    world_size: int, model: dict[str, Any], sharded: bool
) -> None:
    assert run_of(model, world_size=world_size).engine.optim.use_distributed_optimizer is sharded
