"""Which layers an extension scales, and what a YAML may say of layers that differ."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nemo_pi.checkpoint.summary import CheckpointSummary
from nemo_pi.config.load import resolve
from nemo_pi.config.plan import render_plan
from nemo_pi.errors import ConfigError
from nemo_pi.families.shape import ModelShape
from nemo_pi.rope.query_scale import QueryScale
from nemo_pi.rope.spec import ContextExtension
from tests.unit.config.builders import SHAPE, run_of, summary_of, values_of
from tests.unit.config.test_plan import rows

MIXED = replace(SHAPE, sliding_window=64, full_attention_layers=(3,))
GLOBAL = ContextExtension.unscaled(512, 64, base=1e6)
LOCAL = ContextExtension.unscaled(512, 64, base=1e4)
SCALED = ContextExtension.build(original_window=512, target_window=2048, head_dim=64, base=1e6)


def checkpoint(
    extension: ContextExtension = GLOBAL, sliding: ContextExtension | None = LOCAL, shape: ModelShape = MIXED
) -> CheckpointSummary:
    return summary_of(shape, replace(extension, sliding=sliding))


def kinds(summary: CheckpointSummary, **model: Any) -> list[tuple[str, float, float, int]]:
    extension = run_of(model, summary=summary).extension
    return [(kind.method, kind.factor, kind.base, kind.target_window) for kind in extension.kinds]


def test_full_attention_layers_are_scaled_by_default() -> None:
    expected = [("linear", 8.0, 1e6, 4096), ("none", 1.0, 1e4, 4096)]
    assert kinds(checkpoint()) == kinds(checkpoint(), pos_scaling_layers="full") == expected


@pytest.mark.parametrize("method", ["linear", "yarn", "dynamic", "ntk"])
def test_all_layers_are_scaled_where_that_is_asked_for(method: str) -> None:
    both = [(method, 8.0, 1e6, 4096), (method, 8.0, 1e4, 4096)]
    assert kinds(checkpoint(), pos_scaling_type=method, pos_scaling_layers="all") == both


def test_a_scaled_checkpoint_keeps_its_layers() -> None:
    """And replaces them where rescaling is allowed, counted from the original window."""
    scaled, everywhere = checkpoint(SCALED), checkpoint(SCALED, replace(SCALED, base=1e4))
    own = [("linear", 4.0, 1e6, 2048), ("none", 1.0, 1e4, 2048)]
    same = {"max_position_embeddings": None}
    assert kinds(scaled, **same) == kinds(scaled, **same, pos_scaling_layers="full") == own
    again = {"allow_rescaling": True, "pos_scaling_type": "yarn"}
    assert kinds(scaled, **again) == [("yarn", 8.0, 1e6, 4096), ("none", 1.0, 1e4, 4096)]
    assert kinds(everywhere, **again) == [("yarn", 8.0, 1e6, 4096), ("yarn", 8.0, 1e4, 4096)]
    full = kinds(everywhere, **again, pos_scaling_layers="full")
    assert full == [("yarn", 8.0, 1e6, 4096), ("none", 1.0, 1e4, 4096)]


def refused(summary: CheckpointSummary, **model: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        run_of(model, summary=summary)
    return caught.value


def applied(error: ConfigError) -> dict[str, Any]:
    """The overrides of a fix, as a model section."""
    texts = [
        word.removeprefix("model.").split("=") for word in error.fix.split() if word.startswith("model.")
    ]
    words = {"null": None, "true": True}
    return {key: words.get(value, value) for key, value in texts}


def test_other_layers_than_the_checkpoints_need_rescaling() -> None:
    error = refused(checkpoint(SCALED), max_position_embeddings=None, pos_scaling_layers="all")
    assert error.field == "model.pos_scaling_layers" and "already scaled" in str(error)
    assert "allow_rescaling=true" in error.fix


@pytest.mark.parametrize(
    ("summary", "given", "message"),
    [
        (checkpoint(), "ful", "did you mean full"),
        (checkpoint(sliding=None), "full", "layers of a llama share their rotary embeddings"),
        (checkpoint(shape=replace(MIXED, full_attention_layers=())), "full", "every layer of this model"),
    ],
    ids=["misspelt", "shared", "all slide"],
)
def test_layers_that_cannot_be_told_apart_are_refused(
    summary: CheckpointSummary, given: str, message: str
) -> None:
    error = refused(summary, pos_scaling_layers=given)
    assert message in str(error)
    if "share" in message or "every" in message:
        assert run_of(applied(error), summary=summary).extension.method == "linear"


def test_where_all_layers_slide_they_are_scaled() -> None:
    all_slide = checkpoint(shape=replace(MIXED, full_attention_layers=()))
    assert kinds(all_slide)[1] == ("linear", 8.0, 1e4, 4096)


def test_the_checkpoint_decides_how_queries_grow() -> None:
    summary = checkpoint(replace(GLOBAL, query_scale=QueryScale(0.1, 512)), None, SHAPE)
    for given in (None, {"beta": 0.1}, {"beta": 0.1, "window": 512}):
        assert run_of({"query_scaling": given}, summary=summary).extension.query_scale == QueryScale(0.1, 512)
    error = refused(summary, query_scaling={"beta": 0.2})
    assert error.field == "model.query_scaling"
    assert run_of(applied(error), summary=summary).extension.query_scale is not None
    assert refused(checkpoint(), sliding_rotary={"base": 5.0}).field == "model.sliding_rotary"
    assert run_of({"sliding_rotary": {"base": 1e4}}, summary=checkpoint()).extension.sliding is not None


def test_a_family_that_knows_neither_refuses_both() -> None:
    sizes = {
        "num_layers": 4,
        "hidden_size": 64,
        "ffn_hidden_size": 96,
        "num_attention_heads": 4,
        "vocab_size": 64,
    }
    for key, value in (("sliding_rotary", {"base": 5.0}), ("query_scaling", {"beta": 0.1, "window": 64})):
        with pytest.raises(ConfigError, match=f"model.{key}: required null"):
            resolve(values_of({**sizes, "family": "llama", key: value}), world_size=1, summary=None)


OLMO = {
    "num_layers": 4,
    "hidden_size": 64,
    "ffn_hidden_size": 96,
    "num_attention_heads": 4,
    "vocab_size": 64,
    "family": "olmo3",
    "sliding_window": 64,
    "full_attention_layers": [3],
    "rotary_base": 5e5,
    "pos_scaling_factor": 8.0,
}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("none", 1.0, 5e5)),
        ({"sliding_rotary": {"base": 1e4}}, ("none", 1.0, 1e4)),
        ({"sliding_rotary": {"base": 1e4}, "pos_scaling_layers": "all"}, ("linear", 8.0, 1e4)),
        ({"sliding_rotary": {"base": 1e4, "method": "yarn", "factor": 8.0}}, ("yarn", 8.0, 1e4)),
        (
            {"sliding_rotary": {"method": "yarn", "factor": 8.0}, "pos_scaling_layers": "full"},
            ("none", 1.0, 5e5),
        ),
    ],
    ids=str,
)
def test_a_yaml_without_a_checkpoint_may_say_it_all(
    given: dict[str, Any], expected: tuple[str, float, float]
) -> None:
    extension = resolve(values_of({**OLMO, **given}), world_size=1, summary=None).extension
    assert (extension.method, extension.factor, extension.base) == ("linear", 8.0, 5e5)
    sliding = extension.sliding
    assert sliding is not None and (sliding.method, sliding.factor, sliding.base) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"bases": 1e4}, "did you mean 'base'"),
        ({"base": 0.5}, "model.sliding_rotary.base"),
        ({"method": "yarns"}, "model.sliding_rotary.method"),
    ],
    ids=str,
)
def test_sliding_layers_that_cannot_be_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(values_of({**OLMO, "sliding_rotary": given}), world_size=1, summary=None)


def test_the_plan_shows_every_kind() -> None:
    shape = replace(MIXED, unrotated_layers=(1, 3))
    extension = replace(GLOBAL, sliding=LOCAL, query_scale=QueryScale(0.1, 512))
    summary, options = summary_of(shape, extension), {"transformer_engine": False}
    plan = rows(render_plan(run_of(options, summary=summary)))
    assert plan["rotary"] == "base 1e+06, 64 of 64 channels"
    assert plan["sliding layers"] == "not scaled, base 10000, layers 0, 1, 2 (3 of 4)"
    assert plan["not rotated"] == "layers 1, 3 (2 of 4), which see no positions"
    assert plan["queries"] == "at position m times 1 + 0.1·ln(1 + ⌊m ÷ 512⌋)"
    assert plan["sliding window"] == "sdpa (auto), 64 tokens back in 3 of 4 layers"
    plan = rows(render_plan(run_of({**options, "pos_scaling_layers": "all"}, summary=summary)))
    assert plan["sliding layers"].startswith("linear (Position Interpolation) by 8, base 10000, layers")


@pytest.mark.parametrize("layers", [(4,), (0, 1, 2, 3)])
def test_layers_that_are_not_rotated_leave_some_that_are(layers: tuple[int, ...]) -> None:
    error = refused(summary_of(replace(SHAPE, unrotated_layers=layers)))
    assert error.field == "model.unrotated_layers"
