"""Every published recipe of conf/recipe is a run that can be planned, with the numbers of its source."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from nemo_pi.checkpoint.summary import CheckpointSummary
from nemo_pi.config.load import resolve, resolve_stages
from nemo_pi.config.plan import render_plan
from nemo_pi.config.plan_stages import render_stages
from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.families.shape import ModelShape
from nemo_pi.rope.spec import ContextExtension
from tests.unit.config.builders import summary_of
from tests.unit.config.test_conf import CONF, composed

RECIPES = {path.stem: path for path in (CONF / "recipe").glob("*.yaml")}
DOCS = Path(__file__).resolve().parents[3] / "docs" / "recipes.md"

LLAMA_2 = ModelShape(32, 4096, 11008, 32, 32, 128, 32000)
LLAMA_3 = ModelShape(32, 4096, 14336, 32, 8, 128, 128256)
QWEN_3 = ModelShape(36, 4096, 12288, 32, 8, 128, 151936, 1e-6, family="qwen3", qk_norm=True)


def plain(window: int, base: float) -> ContextExtension:
    return ContextExtension.unscaled(window, 128, base=base)


def scaled(method: str, original: int, target: int, base: float = 5e5, **more: Any) -> ContextExtension:
    windows = {"original_window": original, "target_window": target}
    return ContextExtension.build(method=method, head_dim=128, base=base, **windows, **more)


@dataclass(frozen=True)
class Expected:
    """What a recipe is for, and what its source says it comes to."""

    shape: ModelShape
    start: ContextExtension
    factor: float
    target: int
    step_tokens: int
    all_tokens: float
    """As the source counts them, to 5%."""
    lr: float
    length: int | None = None


LLAMA_31 = scaled("llama3", 8192, 131072, factor=8.0)
PROLONG_64K = scaled("abf", 8192, 65536, extra_args={"base": 8e6})
FOURTH = 2**22
# Three of four layers look back 4,096 tokens.
OLMO_3 = replace(
    LLAMA_2,
    vocab_size=100278,
    norm_epsilon=1e-6,
    family="olmo3",
    qk_norm=True,
    sliding_window=4096,
    full_attention_layers=tuple(range(3, 32, 4)),
)
BY_KIND = replace(plain(8192, 5e5), sliding=plain(8192, 5e5))
EXPECTED = {
    "yarn_64k": Expected(LLAMA_2, plain(4096, 1e4), 16, 65536, FOURTH, 400 * FOURTH, 2e-5),
    "yarn_128k": Expected(
        LLAMA_2, scaled("yarn", 4096, 65536, 1e4), 32, 131072, FOURTH, 200 * FOURTH, 2e-5, 65536
    ),
    "prolong_64k": Expected(LLAMA_3, plain(8192, 5e5), 8, 65536, FOURTH, 20e9, 1e-5),
    "prolong_512k": Expected(LLAMA_3, PROLONG_64K, 64, 524288, 2 * FOURTH, 20e9, 5e-6),
    "olmo3_7b": Expected(OLMO_3, BY_KIND, 8, 65536, FOURTH, 50e9, 2.0712352850360292e-4),
    "olmo3_32b": Expected(LLAMA_3, plain(8192, 5e5), 8, 65536, 2 * FOURTH, 100e9, 2.0712352850360292e-4),
    "ultralong_1m": Expected(LLAMA_3, LLAMA_31, 128, 2**20, FOURTH, 1e9, 2e-5),
    "ultralong_2m": Expected(LLAMA_3, LLAMA_31, 256, 2**21, FOURTH, 1e9, 2e-5),
    "ultralong_4m": Expected(LLAMA_3, LLAMA_31, 512, 2**22, FOURTH, 1e9, 2e-5),
    "qwen3_131k": Expected(QWEN_3, plain(40960, 1e6), 3.2, 131072, 2 * FOURTH, 400 * 2 * FOURTH, 2e-5),
    "longlora_32k": Expected(LLAMA_2, plain(4096, 1e4), 8, 32768, FOURTH // 2, 1000 * FOURTH // 2, 2e-5),
}


STAGED = {
    "yarn_64k_128k": ("yarn_64k", "yarn_128k"),
    "prolong_64k_512k": ("prolong_64k", "prolong_512k"),
}
"""In one launch → the recipes of their stages, each of which starts from what the one before made."""


def planned(name: str, summary: CheckpointSummary) -> ResolvedRun:
    cfg = composed(
        "model=auto", f"recipe={name}", "restore_from_path=/models/base", "model.data.data_prefix=[/data/x]"
    )
    return resolve(cfg, world_size=1, summary=summary)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_dry_run_has_the_source_s_numbers(name: str) -> None:
    expected = EXPECTED[name]
    run = planned(name, summary_of(expected.shape, extension=expected.start, dtype="bfloat16"))
    extension = run.extension
    assert (extension.target_window, extension.factor) == (expected.target, expected.factor)
    assert extension.original_window * expected.factor == expected.target
    assert run.training_length == (expected.length or expected.target)
    assert run.tokens_per_step == expected.step_tokens
    assert run.tokens_per_step * run.max_steps == pytest.approx(expected.all_tokens, rel=0.05)
    assert run.optim.lr == expected.lr
    assert f"{expected.target:,} tokens" in render_plan(run)


@pytest.mark.parametrize("name", sorted(STAGED))
def test_stages_of_one_launch_are_the_recipes_that_stand_alone(name: str) -> None:
    alone = [
        planned(each, summary_of(EXPECTED[each].shape, extension=EXPECTED[each].start))
        for each in STAGED[name]
    ]
    start = EXPECTED[STAGED[name][0]]
    cfg = composed("model=auto", f"recipe={name}", "restore_from_path=/models/base", "dry_run=true")
    stages = resolve_stages(cfg, world_size=1, summary=summary_of(start.shape, extension=start.start))
    for stage, run in zip(stages, alone, strict=True):
        assert stage.extension == run.extension
        assert (stage.schedule, stage.max_steps) == (run.schedule, run.max_steps)
        assert (stage.training_length, stage.tokens_per_step) == (run.training_length, run.tokens_per_step)
        assert stage.engine.optim == run.engine.optim
    plan = render_stages(stages)
    assert all(f"{run.extension.target_window:,} tokens" in plan for run in alone)


@pytest.mark.parametrize(("name", "base"), [("prolong_64k", 8e6), ("prolong_512k", 1.28e8)])
def test_prolong_computes_with_its_own_bases(name: str, base: float) -> None:
    """The second stage starts from what the first one wrote: its base is replaced, the window counts on."""
    start = EXPECTED[name].start
    run = planned(name, summary_of(LLAMA_3, extension=start))
    assert run.extension.extra_args == {"base": base}
    assert run.extension.original_window == 8192


def test_olmo_3_scales_layers_that_attend_to_everything_alone() -> None:
    run = planned("olmo3_7b", summary_of(OLMO_3, extension=BY_KIND))
    sliding = run.extension.sliding
    assert sliding is not None and not sliding.scaling.is_scaled(sliding.numbers)
    assert run.extension.method == "yarn"


def test_ultralong_s_ramp_is_narrow() -> None:
    run = planned("ultralong_1m", summary_of(LLAMA_3, extension=LLAMA_31))
    assert (run.extension.extra_args["beta_fast"], run.extension.extra_args["beta_slow"]) == (4.0, 1.0)


def test_every_recipe_names_its_source_and_is_listed() -> None:
    listed = DOCS.read_text(encoding="utf-8")
    for name, path in RECIPES.items():
        opening = path.read_text(encoding="utf-8").split("\nmodel:\n")[0]
        assert re.search(r"arXiv[\s#]+\d{4}\.\d{5}", opening), f"{name} names no paper"
        assert f"recipe={name}" in opening
        assert f"`{name}`" in listed, f"{name} is not in docs/recipes.md"
    assert set(RECIPES) == {*EXPECTED, *STAGED}
