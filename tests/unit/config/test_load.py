from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from nemo_pi.config.load import checkpoint_path, merge, resolve
from nemo_pi.errors import ConfigError
from nemo_pi.parallel.layout import ParallelLayout
from tests.unit.config.builders import SHAPE, YAML_SHAPE, run_of, summary_of, values_of


def refusal(model: dict[str, Any] | None = None, **top: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        run_of(model, **top)
    return caught.value


def test_unknown_keys_of_all_sections_are_named_at_once() -> None:
    error = refusal(
        {"global_batch_sise": 8, "optim": {"lrr": 1e-3}},
        trainer={"max_step": 3},
        exp_manager={"exp_dri": "x", "checkpoint_callback_params": {"save_topk": 1}},
        modle={},
    )
    sections = ["modle", "model.global_batch_sise", "model.optim.lrr", "trainer.max_step"]
    sections += ["exp_manager.exp_dri", "exp_manager.checkpoint_callback_params.save_topk"]
    assert error.field == ", ".join(sections)
    for name in ("model", "model.global_batch_size", "trainer.max_steps", "exp_manager.exp_dir"):
        assert f"did you mean {name}?" in error.fix


def test_everything_a_trainer_needs() -> None:
    summary = summary_of()
    run = run_of(
        {"tensor_model_parallel_size": 2, "micro_batch_size": 2, "global_batch_size": 16, "seed": 7},
        trainer={"max_steps": 30, "precision": "bf16", "gradient_clip_val": 1, "devices": 4, "num_nodes": 2},
        world_size=8,
        summary=summary,
    )
    assert run.checkpoint is summary
    assert run.shape == SHAPE
    assert (run.extension.original_window, run.extension.target_window, run.extension.factor) == (
        512,
        4096,
        8.0,
    )
    assert run.window_source == summary.window_source
    assert run.training_length == 4096
    assert run.parallel == ParallelLayout(tp=2, dp=4)
    assert (run.micro_batch_size, run.global_batch_size, run.num_micro_batches) == (2, 16, 2)
    assert (run.max_steps, run.tokens_per_step) == (30, 16 * 4096)
    assert (run.precision, run.compute_dtype) == ("bf16-mixed", torch.bfloat16)
    assert run.gradient_clip_val == 1.0
    assert run.optim.sched.max_steps == 30
    assert run.warmup_start_lr == pytest.approx(2e-6)
    assert (run.seed, run.data.seed) == (7, 7)
    assert run.data_mapping()["data_prefix"] == ["/data/tokens"]
    assert run.tokenizer is not None
    assert run.tokenizer.model == "/models/base"
    assert run.trainer == {
        "max_steps": 30,
        "precision": "bf16-mixed",
        "devices": 4,
        "num_nodes": 2,
        "check_val_every_n_epoch": None,
    }


def test_resolved_run_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        run_of().max_steps = 5  # type: ignore[misc]


def test_hydra_and_plain_mappings_resolve_alike() -> None:
    values = values_of()
    plain = resolve(values, world_size=1, summary=summary_of())
    assert resolve(OmegaConf.create(values), world_size=1, summary=summary_of()) == plain


def test_input_is_left_alone() -> None:
    values = values_of()
    before = OmegaConf.to_yaml(OmegaConf.create(values))
    resolve(values, world_size=1, summary=summary_of())
    assert OmegaConf.to_yaml(OmegaConf.create(values)) == before


@pytest.mark.parametrize(
    ("model", "field"),
    [
        ({"max_postion_embeddings": 1}, "max_postion_embeddings"),
        ({"optim": {"lr_": 1.0}}, "optim.lr_"),
        ({"optim": {"sched": {"warm_up_steps": 1}}}, "optim.sched.warm_up_steps"),
        ({"data": {"data_prefx": []}}, "data.data_prefx"),
        ({"tokenizer": {"librry": "byte"}}, "tokenizer.librry"),
        ({"export": {"path": "x"}}, "export.path"),
        ({"pos_scaling_factor": "eight"}, "pos_scaling_factor"),
        ({"pos_scaling_factor": float("nan")}, "pos_scaling_factor"),
        ({"optim": {"lr": "fast"}}, "optim.lr"),
        ({"optim": {"betas": [0.9]}}, "optim.betas"),
        ({"micro_batch_size": 1.5}, "micro_batch_size"),
        ({"sequence_parallel": 1}, "sequence_parallel"),
        ({"pos_scaling_extra_args": {"_target_": "os.system"}}, "pos_scaling_extra_args._target_"),
        ({"data": {"data_prefix": None}}, "data.data_prefix"),
        ({"data": {"data_prefix": []}}, "data.data_prefix"),
        ({"data": {"data_prefix": ["/d"], "num_workers": -1}}, "data.num_workers"),
        ({"data": {"data_prefix": ["/d"], "seed": -1}}, "data.seed"),
        ({"hidden_dropout": 0.1}, "hidden_dropout"),
        ({"encoder_seq_length": 8192}, "encoder_seq_length"),
        ({"global_batch_size": 0}, "global_batch_size"),
        ({"num_layers": 5}, "num_layers"),
        (
            {"tensor_model_parallel_size": 2, "sequence_parallel": True, "encoder_seq_length": 511},
            "encoder_seq_length",
        ),
    ],
)
def test_wrong_values_are_refused_by_name(model: dict[str, Any], field: str) -> None:
    world_size = model.get("tensor_model_parallel_size", 1)
    assert refusal(model, world_size=world_size).field == f"model.{field}"


@pytest.mark.parametrize(
    ("top", "field"),
    [
        ({"modle": {}}, "modle"),
        ({"trainer": {"max_stepz": 1}}, "trainer.max_stepz"),
        ({"trainer": {}}, "trainer.max_steps"),
        ({"trainer": {"max_steps": 0}}, "trainer.max_steps"),
        ({"trainer": {"max_steps": -1}}, "trainer.max_steps"),
        ({"trainer": {"max_steps": 100, "gradient_clip_val": -1.0}}, "trainer.gradient_clip_val"),
        ({"trainer": {"max_steps": 100, "precision": "fp32"}}, "trainer.precision"),
        ({"trainer": {"max_steps": 100, "_target_": "x"}}, "trainer._target_"),
        ({"trainer": 3}, "trainer"),
        (
            {"exp_manager": {"wandb_logger_kwargs": {"_target_": "x"}}},
            "exp_manager.wandb_logger_kwargs._target_",
        ),
        ({"dry_run": "yes"}, "dry_run"),
        ({"name": "${nothing.here}"}, "name"),
        ({"name": "${oc.env:NEMO_PI_TEST_SURELY_NOT_SET}"}, "name"),
        ({"restore_from_path": "???"}, "restore_from_path"),
        ({"restore_from_path": ["/a"]}, "restore_from_path"),
    ],
)
def test_wrong_sections_are_refused_by_name(top: dict[str, Any], field: str) -> None:
    assert refusal(**top).field == field


def test_interpolations_are_resolved() -> None:
    run = run_of(
        {
            "encoder_seq_length": "${model.original_max_position_embeddings}",
            "original_max_position_embeddings": 512,
        }
    )
    assert run.training_length == 512


def test_no_clipping() -> None:
    assert run_of().gradient_clip_val is None
    assert run_of(trainer={"max_steps": 30, "gradient_clip_val": 0}).gradient_clip_val is None


@pytest.mark.parametrize(
    ("top", "below", "expected"),
    [
        (None, None, None),
        ("/a", None, "/a"),
        (None, "/a", "/a"),
        ("/a", "/a", "/a"),
        ("???", "/a", "/a"),
        ("/a", "???", "/a"),
    ],
)
def test_one_path_from_two_places(top: str | None, below: str | None, expected: str | None) -> None:
    values = values_of({"restore_from_path": below}, restore_from_path=top)
    assert checkpoint_path(values) == expected
    assert merge(values).restore_from_path == expected


def test_two_different_paths_are_refused() -> None:
    with pytest.raises(ConfigError, match="one path"):
        checkpoint_path(values_of({"restore_from_path": "/b"}, restore_from_path="/a"))


def test_open_path_stops_a_run_but_not_a_dry_run() -> None:
    with pytest.raises(ConfigError, match="restore_from_path"):
        checkpoint_path(values_of(restore_from_path="???"))
    values = values_of({**YAML_SHAPE, "data": {}}, restore_from_path="???", dry_run=True)
    assert checkpoint_path(values) is None
    run = resolve(values, world_size=1, summary=None)
    assert run.checkpoint is None
    assert run.checkpoint_open


def test_random_weights() -> None:
    run = resolve(values_of(dict(YAML_SHAPE)), world_size=1, summary=None)
    assert run.checkpoint is None
    assert not run.checkpoint_open
    assert run.shape == SHAPE
    assert run.tokenizer is None
    assert not run.extension.is_scaled


def test_model_section_that_nemo_saved_resolves_again() -> None:
    first = run_of({"pos_scaling_type": "yarn"})
    section = first.to_dict()["model"] | YAML_SHAPE | {"original_max_position_embeddings": 512}
    again = resolve(values_of(section), world_size=1, summary=None)
    assert again.extension == first.extension
    assert again.optim == first.optim
