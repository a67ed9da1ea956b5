"""The section of a .nemo file: it rebuilds the model without the checkpoint that it came from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from omegaconf import OmegaConf

from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.nemo.settings import (
    run_of_model_config,
    self_contained_model_config,
)
from nemo_pi.rope.query_scale import QueryScale
from nemo_pi.rope.spec import ContextExtension
from tests.unit.config.builders import EVERYTHING, SHAPE, run_of, summary_of


def test_a_nemo_file_of_a_pose_run_reads_at_the_length_of_its_text() -> None:
    run = run_of({"pos_scaling_type": "dynamic", "data": {"data_prefix": ["/data/tokens"], "pose": {}}})
    again = run_of_model_config(self_contained_model_config(run))
    assert again.extension == run.extension and again.pose is None
    assert again.engine.rotary_length is None


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
        {"family": "smollm3", "unrotated_layers": (1, 3)},
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


@pytest.mark.parametrize("layers", ["full", "all"])
def test_a_nemo_files_section_holds_both_kinds_of_layers(layers: str) -> None:
    shape = replace(SHAPE, family="olmo3", qk_norm=True, sliding_window=64, full_attention_layers=(3,))
    plain = ContextExtension.unscaled(512, SHAPE.head_dim, base=5e5)
    summary = summary_of(shape, replace(plain, sliding=replace(plain, base=1e4)))
    run = run_of({"pos_scaling_layers": layers, "pos_scaling_type": "yarn"}, summary=summary)
    section = OmegaConf.create(OmegaConf.to_yaml(self_contained_model_config(run)))
    assert run.extension.sliding is not None
    assert run.extension.sliding.is_scaled is (layers == "all")
    again = run_of_model_config(section)
    assert (again.shape, again.extension) == (run.shape, run.extension)


def test_a_nemo_files_section_holds_how_queries_grow() -> None:
    extension = replace(ContextExtension.unscaled(512, SHAPE.head_dim), query_scale=QueryScale(0.2, 512))
    run = run_of(summary=summary_of(replace(SHAPE, family="ministral3"), extension))
    section = OmegaConf.create(OmegaConf.to_yaml(self_contained_model_config(run)))
    assert run.extension.query_scale is not None
    assert run_of_model_config(section).extension == run.extension
