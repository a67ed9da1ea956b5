"""From a validated run to what is built, field by field, and back from a .nemo file's section."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.nemo.settings import (
    run_of_model_config,
    self_contained_model_config,
)
from nemo_pi.rope.spec import ContextExtension
from tests.unit.config.builders import SHAPE, run_of, summary_of

EVERYTHING = {
    "rotary_kernel": "torch",
    "init_method_std": 0.007,
    "micro_batch_size": 2,
    "global_batch_size": 8,
    "loss_chunk_size": 77,
    "activations_checkpoint_granularity": "full",
    "activations_checkpoint_method": "block",
    "activations_checkpoint_num_layers": 3,
    "optim": {
        "name": "fused_adam",
        "lr": 4e-4,
        "betas": [0.8, 0.9],
        "eps": 1e-6,
        "weight_decay": 0.03,
        "sched": {
            "name": "CosineAnnealing",
            "warmup_steps": 7,
            "warmup_start_fraction": 0.2,
            "max_steps": 60,
            "min_lr": 1e-5,
            "constant_steps": 4,
        },
    },
}
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


def test_a_nemo_file_of_a_pose_run_reads_at_the_length_of_its_text() -> None:
    run = run_of({"pos_scaling_type": "dynamic", "data": {"data_prefix": ["/data/tokens"], "pose": {}}})
    again = run_of_model_config(self_contained_model_config(run))
    assert again.extension == run.extension and again.pose is None
    assert again.engine.rotary_length is None


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


SELF_CONTAINED = [
    {},
    EVERYTHING,
    {"pos_scaling_type": "yarn", "pos_scaling_extra_args": {"beta_fast": 16.0}},
    {"pos_scaling_type": "none"},
    {"seq_len_interpolation_factor": 8},
    {"max_position_embeddings": 512, "pos_scaling_factor": 1.0},
    {"encoder_seq_length": 512},
]


@pytest.mark.parametrize("model", SELF_CONTAINED, ids=str)
def test_a_nemo_files_section_rebuilds_the_model_without_the_checkpoint(model: dict[str, Any]) -> None:
    run = run_of(model)
    section = OmegaConf.create(OmegaConf.to_yaml(self_contained_model_config(run)))  # as the file holds it
    section.update({"target": "nemo_pi.nemo.module.ContextExtensionModel", "nemo_version": "3.0.0"})
    again: ResolvedRun = run_of_model_config(section)
    assert again.checkpoint is None
    assert (again.shape, again.extension) == (run.shape, run.extension)
    assert again.training_length == run.training_length
    assert again.shape == SHAPE


@pytest.mark.parametrize(
    "changes",
    [
        {"family": "mistral", "sliding_window": 64},
        {"family": "qwen2", "qkv_bias": True, "sliding_window": 64, "full_attention_layers": (0, 2)},
        {"family": "qwen3", "qk_norm": True},
    ],
    ids=str,
)
def test_a_nemo_files_section_holds_what_is_particular_to_a_family(changes: dict[str, Any]) -> None:
    run = run_of(summary=summary_of(replace(SHAPE, **changes)))
    section = OmegaConf.create(OmegaConf.to_yaml(self_contained_model_config(run)))
    assert run_of_model_config(section).shape == replace(SHAPE, **changes)


def test_a_nemo_files_section_holds_what_only_the_checkpoint_said() -> None:
    yarn = ContextExtension.build(
        original_window=512,
        target_window=4096,
        method="yarn",
        head_dim=SHAPE.head_dim,
        base=50_000.0,
        extra_args={"beta_fast": 16.0},
    )
    run = run_of({"max_position_embeddings": None}, summary=summary_of(extension=yarn))
    assert run.extension == yarn
    assert run_of_model_config(self_contained_model_config(run)).extension == yarn
