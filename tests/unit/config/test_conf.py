"""Every YAML of conf/ composes, resolves against a fitting checkpoint, and explains each of its keys."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from nemo_pi.checkpoint.summary import CheckpointSummary
from nemo_pi.config.load import checkpoint_path, resolve
from nemo_pi.config.plan import render_plan
from nemo_pi.config.trainer_keys import world_size_of
from nemo_pi.errors import ConfigError
from nemo_pi.families.shape import ModelShape
from nemo_pi.rope.pose_spec import SAMPLERS
from nemo_pi.rope.spec import ContextExtension
from tests.unit.config.builders import summary_of

CONF = Path(__file__).resolve().parents[3] / "conf"
FILES = sorted(CONF.rglob("*.yaml"))

PRETRAINING = sorted(path.stem for path in CONF.glob("pretrain*.yaml"))

# What the published config.json of each preset's model says, and nothing else.
PUBLISHED = {
    "demo": (ModelShape(4, 256, 688, 4, 4, 64, 2048, tied_embeddings=True), 512, 10000.0),
    "llama-7b": (ModelShape(32, 4096, 11008, 32, 32, 128, 32000, 1e-6), 2048, 10000.0),
    "llama-3-8b": (ModelShape(32, 4096, 14336, 32, 8, 128, 128256), 8192, 500000.0),
    "mistral-7b": (
        ModelShape(32, 4096, 14336, 32, 8, 128, 32000, family="mistral", sliding_window=4096),
        32768,
        10000.0,
    ),
    "qwen2.5-7b": (
        ModelShape(28, 3584, 18944, 28, 4, 128, 152064, 1e-6, family="qwen2", qkv_bias=True),
        32768,
        1e6,
    ),
    "qwen3-8b": (
        ModelShape(36, 4096, 12288, 32, 8, 128, 151936, 1e-6, family="qwen3", qk_norm=True),
        40960,
        1e6,
    ),
}
WINDOWS = {
    "demo": (512, 4096, 8.0),
    "llama-7b": (2048, 32768, 16.0),
    "llama-3-8b": (8192, 32768, 4.0),
    "mistral-7b": (8192, 32768, 4.0),
    "qwen2.5-7b": (32768, 131072, 4.0),
    "qwen3-8b": (40960, 131072, 3.2),
}


def composed(*overrides: str, name: str = "extend_context") -> DictConfig:
    with initialize_config_dir(str(CONF), version_base=None):
        return compose(name, overrides=list(overrides))


def published(preset: str) -> CheckpointSummary:
    shape, window, base = PUBLISHED[preset]
    return summary_of(shape, extension=ContextExtension.unscaled(window, shape.head_dim, base=base))


def test_nothing_is_left_untested() -> None:
    presets = {path.stem for path in (CONF / "model").glob("*.yaml")} - {"base", "auto"}
    assert presets == set(PUBLISHED)
    assert {path.stem for path in CONF.glob("*.yaml")} == {"evaluate", "extend_context", *PRETRAINING}


@pytest.mark.parametrize("preset", sorted(PUBLISHED))
def test_presets_extend_their_published_model(preset: str) -> None:
    cfg = composed(f"model={preset}", "restore_from_path=/models/base", "model.data.data_prefix=[/data/x]")
    assert checkpoint_path(cfg) == "/models/base"
    run = resolve(cfg, world_size=world_size_of(cfg.trainer, {}), summary=published(preset))
    extension = run.extension
    windows = (extension.original_window, extension.target_window, extension.factor)
    assert windows == WINDOWS[preset]
    assert extension.method == ("yarn" if preset.startswith("qwen") else "linear")
    assert run.training_length == extension.target_window
    assert run.shape == PUBLISHED[preset][0]
    assert f"{extension.target_window:,} tokens" in render_plan(run)


def test_llama_7b_is_the_paper_s_recipe() -> None:
    cfg = composed("model=llama-7b", "dry_run=true")
    run = resolve(cfg, world_size=8, summary=None)
    assert (run.optim.lr, run.optim.betas, run.optim.weight_decay) == (2e-5, (0.9, 0.95), 0.0)
    sched = run.optim.sched
    assert (sched.name, sched.warmup_steps, run.warmup_start_lr) == ("constant", 20, pytest.approx(2e-6))
    assert (run.global_batch_size, run.max_steps, run.precision) == (64, 1000, "bf16-mixed")


def test_big_presets_demand_a_checkpoint_except_for_a_dry_run() -> None:
    for preset in sorted(set(PUBLISHED) - {"demo"}):
        with pytest.raises(ConfigError, match="restore_from_path"):
            checkpoint_path(composed(f"model={preset}"))
        cfg = composed(f"model={preset}", "dry_run=true")
        run = resolve(cfg, world_size=1, summary=None)
        assert run.checkpoint_open
        assert run.extension.factor == WINDOWS[preset][2]


AUTO = ("model=auto", "restore_from_path=/models/any", "model.data.data_prefix=[/data/x]")


@pytest.mark.parametrize("preset", sorted(PUBLISHED))
@pytest.mark.parametrize(("dtype", "precision"), [("float32", "32-true"), ("bfloat16", "bf16-mixed")])
def test_auto_takes_what_the_checkpoint_says(preset: str, dtype: str, precision: str) -> None:
    summary = replace(published(preset), dtype=dtype)
    cfg = composed(*AUTO, f"model.max_position_embeddings={8 * summary.extension.original_window}")
    run = resolve(cfg, world_size=64, summary=summary)
    assert run.shape == PUBLISHED[preset][0]
    assert (run.extension.method, run.extension.factor) == ("linear", 8.0)
    assert run.extension.base == PUBLISHED[preset][2]
    assert (run.precision, run.export.dtype) == (precision, dtype)
    assert run.tokenizer is not None and run.tokenizer.model == str(summary.tokenizer_path)


def test_auto_keeps_the_scaling_of_a_scaled_checkpoint() -> None:
    yarn = ContextExtension.build(original_window=512, target_window=4096, method="yarn", head_dim=64)
    run = resolve(composed(*AUTO), world_size=1, summary=replace(published("demo"), extension=yarn))
    assert run.extension == yarn


def test_a_run_that_would_extend_nothing_says_what_to_write() -> None:
    """Each of the two lines that the message offers is then taken."""
    with pytest.raises(ConfigError, match="nothing would be extended") as caught:
        resolve(composed(*AUTO), world_size=1, summary=published("demo"))
    offered = re.findall(r"model\.\w+=\w+", caught.value.fix)
    assert len(offered) == 2
    for line, target in zip(offered, (4096, 512), strict=True):
        run = resolve(composed(*AUTO, line), world_size=1, summary=published("demo"))
        assert run.extension.target_window == target


def test_demo_starts_from_the_bundled_model() -> None:
    assert checkpoint_path(composed()) == "demo/model"


@pytest.mark.parametrize("name", PRETRAINING)
def test_pretraining_extends_nothing(name: str) -> None:
    cfg = composed("dry_run=true", name=name)
    # Later phases go on from an earlier one's checkpoint, the first from random weights.
    summary = None if checkpoint_path(cfg) is None else published("demo")
    run = resolve(cfg, world_size=1, summary=summary)
    assert not run.checkpoint_open
    assert not run.extension.is_scaled
    assert run.extension.target_window == run.extension.original_window == 512
    assert run.config.exp_manager["name"] == run.name == name


@pytest.mark.parametrize("name", ["pretrain", "pretrain_demo"])
def test_pretraining_starts_from_random_weights(name: str) -> None:
    assert checkpoint_path(composed(name=name)) is None


@pytest.mark.parametrize("rope", sorted(path.stem for path in (CONF / "rope").glob("*.yaml")))
def test_rope_groups(rope: str) -> None:
    factors = "[" + ",".join(["1.0"] * 32) + "]"
    overrides = [f"rope={rope}", "model.data.data_prefix=[/data/x]"]
    if rope == "longrope":
        overrides += [f"model.pos_scaling_extra_args.{name}_factor={factors}" for name in ("short", "long")]
    if rope == "abf":
        overrides.append("model.pos_scaling_extra_args.base=80000")
    run = resolve(composed(*overrides), world_size=1, summary=published("demo"))
    assert run.extension.method == rope
    assert (run.extension.original_window, run.extension.target_window) == (512, 4096)
    assert run.extension.is_scaled == (rope != "none")


@pytest.mark.parametrize("pose", sorted(path.stem for path in (CONF / "pose").glob("*.yaml")))
def test_pose_groups(pose: str) -> None:
    cfg = composed(f"pose={pose}", "model.data.data_prefix=[/data/x]")
    run = resolve(cfg, world_size=1, summary=published("demo"))
    assert run.pose is not None and run.pose.sampler == pose
    assert (run.training_length, run.extension.target_window) == (512, 4096)


def test_pose_groups_are_the_samplers() -> None:
    assert {path.stem for path in (CONF / "pose").glob("*.yaml")} == set(SAMPLERS)


def test_128k_tokens_by_steps_of_the_original_window() -> None:
    window = ["model.max_position_embeddings=131072", "model.pos_scaling_factor=null"]
    start = ["restore_from_path=/models/base", "model.data.data_prefix=[/data/x]"]
    cfg = composed("model=llama-7b", "pose=paper", *window, *start)
    run = resolve(cfg, world_size=1, summary=published("llama-7b"))
    assert (run.training_length, run.extension.factor, run.tokens_per_step) == (2048, 64.0, 64 * 2048)


@pytest.mark.parametrize(("rope", "missing"), [("longrope", "short_factor"), ("abf", "base")])
def test_methods_without_what_they_need_are_refused(rope: str, missing: str) -> None:
    with pytest.raises(ConfigError, match=rf"pos_scaling_extra_args\.{missing}"):
        resolve(
            composed(f"rope={rope}", "model.data.data_prefix=[/data/x]"),
            world_size=1,
            summary=published("demo"),
        )


@pytest.mark.parametrize("parallel", sorted(path.stem for path in (CONF / "parallel").glob("*.yaml")))
def test_parallel_groups(parallel: str) -> None:
    cfg = composed(f"parallel={parallel}", "model=llama-3-8b", "dry_run=true")
    run = resolve(cfg, world_size=8, summary=None)
    sizes = [int(size) for size in re.findall(r"\d+", parallel)]
    expected = 8 if parallel == "tp8" else 2 ** len(sizes)
    assert run.parallel.model_ranks == expected
    assert run.parallel.sequence_parallel == (run.parallel.tp > 1)


@pytest.mark.parametrize(
    ("override", "path", "expected"),
    [
        ("model.encoder_seq_length=512", "model.encoder_seq_length", 512),
        ("+trainer.max_time=00:00:05:00", "trainer.max_time", "00:00:05:00"),
        ("++model.optim.lr=1e-3", "model.optim.lr", 1e-3),
        ("++trainer.max_time=00:00:05:00", "trainer.max_time", "00:00:05:00"),
        ("+model.pos_scaling_extra_args.beta_fast=16", "model.pos_scaling_extra_args.beta_fast", 16),
        ("model.data.pose={chunks:3}", "model.data.pose.chunks", 3),
        ("+model.data.pose.chunks=3", "model.data.pose.chunks", 3),
        ("model.pos_scaling_extra_args={beta_fast:16}", "model.pos_scaling_extra_args.beta_fast", 16),
    ],
)
def test_hydra_overrides(override: str, path: str, expected: Any) -> None:
    cfg = composed(override, "dry_run=true")
    value: Any = cfg
    for part in path.split("."):
        value = value[part]
    assert value == expected


def test_deleted_keys_take_their_defaults() -> None:
    cfg = composed("~model.optim.sched", "~trainer.gradient_clip_val", "model.data.data_prefix=[/data/x]")
    run = resolve(cfg, world_size=1, summary=published("demo"))
    assert run.gradient_clip_val is None
    assert run.optim.sched.warmup_steps == 20


def test_unknown_override_is_refused_with_the_nearest() -> None:
    cfg = composed("+model.pos_scaling_factr=8", "model.data.data_prefix=[/data/x]")
    with pytest.raises(ConfigError, match=r"did you mean model\.pos_scaling_factor\?"):
        resolve(cfg, world_size=1, summary=published("demo"))


def test_checkpoint_of_another_shape_is_refused() -> None:
    cfg = composed("model.data.data_prefix=[/data/x]")
    summary = published("demo")
    other = replace(summary, shape=replace(summary.shape, num_layers=6))
    with pytest.raises(ConfigError, match=r"model\.num_layers"):
        resolve(cfg, world_size=1, summary=other)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONF)))
def test_every_key_is_explained(path: Path) -> None:
    lines = path.read_text().splitlines()
    bare = []
    for above, line in zip(["", *lines], lines, strict=False):
        key = re.match(r"\s*([\w.]+):(\s|$)", line)
        if key is None or re.search(r"#", line) or above.strip().startswith("#"):
            continue
        if key.group(1) in _SECTIONS:
            continue
        bare.append(line)
    assert not bare, f"keys without a comment: {bare}"


# Keys that only hold other keys.
_SECTIONS = [
    "defaults",
    "trainer",
    "exp_manager",
    "checkpoint_callback_params",
    "model",
    "tokenizer",
    "data",
    "optim",
    "sched",
    "export",
    "train",
    "validation",
    "test",
]


@pytest.mark.parametrize("preset", ["auto", *sorted(PUBLISHED)])
def test_the_two_keys_stand_at_the_top(preset: str) -> None:
    text = (CONF / "model" / f"{preset}.yaml").read_text()
    keys = re.findall(r"^  (\w+):", text.split("\nmodel:\n")[1], flags=re.MULTILINE)
    assert keys[:2] == ["max_position_embeddings", "pos_scaling_factor"]
    assert "NeMo 1.x" in text
    assert "# was" in text


def test_lines_fit_a_screen() -> None:
    long = [
        f"{path.name}: {line}" for path in FILES for line in path.read_text().splitlines() if len(line) > 120
    ]
    assert not long
