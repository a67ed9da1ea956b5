"""The extension spec: what it derives, what it refuses, and that it survives JSON."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
from omegaconf import OmegaConf

from nemo_pi.errors import ConfigError
from nemo_pi.rope.spec import METHODS, ContextExtension
from tests.unit.rope.peers import as_in_a_yaml, make_spec, random_spec


def build(**changes: Any) -> ContextExtension:
    with as_in_a_yaml():
        return ContextExtension.build(
            **{"original_window": 2048, "target_window": 32768, "head_dim": 128} | changes
        )


def test_the_two_keys_of_the_mission() -> None:
    spec = build(factor=16.0)
    assert (spec.method, spec.factor, spec.is_scaled, spec.rotary_dim) == ("linear", 16.0, True, 128)
    assert spec == build() == build(factor=16), "null derives the factor; a whole number is as good"


def test_it_is_written_as_what_it_was_built_from() -> None:
    spec = build(method="yarn", extra_args={"beta_fast": 16.0})
    assert "numbers=" not in repr(spec) and "scaling=" not in repr(spec)
    assert eval(repr(spec), {"ContextExtension": ContextExtension}) == spec


@pytest.mark.parametrize("target", [2049, 3000, 10_000_000])
def test_derived_factors_may_be_fractional(target: int) -> None:
    assert build(target_window=target).factor == target / 2048


def test_given_factor_agrees_to_the_nearest_token() -> None:
    assert build(original_window=3000, target_window=16000, factor=5.33333).factor == 5.33333
    with pytest.raises(ConfigError):
        build(original_window=3000, target_window=16000, factor=5.333)


def test_factor_against_windows_shows_both_numbers() -> None:
    with pytest.raises(ConfigError) as caught:
        build(factor=8.0)
    message = str(caught.value)
    assert message.startswith("model.pos_scaling_factor: ")
    assert "8 × 2048 = 16384" in message and "model.max_position_embeddings is 32768" in message
    assert "null to derive 16" in message and "model.max_position_embeddings=16384" in message


def test_large_windows_are_written_out() -> None:
    with pytest.raises(ConfigError, match="1024 × 2048 = 2097152"):
        build(factor=1024.0)


def test_edited_factor_alone() -> None:
    with pytest.raises(ConfigError, match=r"16 × 2048 = 32768, but model\.max_position_embeddings is 2048"):
        build(target_window=2048, factor=16.0)


def test_no_method_is_direct_fine_tuning() -> None:
    spec = build(method="none")
    assert (spec.factor, spec.is_scaled, spec.target_window) == (1.0, False, 32768)
    with pytest.raises(ConfigError, match=r"pos_scaling_factor: required 1 or null.*given 16\."):
        build(method="none", factor=16.0)


@pytest.mark.parametrize(("factor", "scaled"), [(8.0, True), (32.0, True), (1.0, False)])
def test_llama3_factor_is_free(factor: float, scaled: bool) -> None:
    spec = build(method="llama3", original_window=8192, target_window=131072, factor=factor)
    assert (spec.factor, spec.is_scaled) == (factor, scaled)
    assert spec.extra_args == {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    assert build(method="llama3").factor == 16.0


@pytest.mark.parametrize("method", [m for m in METHODS if m != "none"])
def test_windows_alike(method: str) -> None:
    spec = make_spec(method, target_window=512)
    assert spec.factor == 1.0
    # LongRoPE's lists, a base of one's own and pairs that stand still act even where nothing is extended.
    assert spec.is_scaled == (method in ("longrope", "abf", "proportional"))


def test_override_of_the_temperature_is_scaling() -> None:
    assert make_spec("yarn", target_window=512, extra_args={"attention_factor": 1.2}).is_scaled
    assert not make_spec("yarn", target_window=512, extra_args={"attention_factor": 1.0}).is_scaled


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"factor": 0}, "model.pos_scaling_factor", "at least 1"),
        ({"factor": -16.0}, "model.pos_scaling_factor", "given -16.0"),
        ({"factor": 0.0625}, "model.pos_scaling_factor", "write 16 or null"),
        ({"factor": float("nan")}, "model.pos_scaling_factor", "given nan"),
        ({"factor": float("inf")}, "model.pos_scaling_factor", "given inf"),
        ({"factor": "16"}, "model.pos_scaling_factor", "unquoted"),
        ({"factor": True}, "model.pos_scaling_factor", "given True"),
        ({"factor": [16.0]}, "model.pos_scaling_factor", "a finite number"),
        ({"original_window": 2048.0}, "model.original_max_position_embeddings", "whole number"),
        ({"original_window": 0}, "model.original_max_position_embeddings", "at least 1"),
        ({"original_window": True}, "model.original_max_position_embeddings", "whole number"),
        ({"target_window": 4096.5}, "model.max_position_embeddings", "given 4096.5"),
        ({"target_window": "32768"}, "model.max_position_embeddings", "without quotes"),
        ({"target_window": -1}, "model.max_position_embeddings", "at least 1"),
        ({"target_window": None}, "model.max_position_embeddings", "given None"),
        ({"target_window": 1024}, "model.max_position_embeddings", "at least the original window of 2048"),
        ({"target_window": 1024, "method": "none"}, "model.max_position_embeddings", "given 1024"),
        ({"target_window": 1024, "factor": 0.5}, "model.pos_scaling_factor", "at least 1"),
        ({"target_window": 1024, "factor": 2.0}, "model.max_position_embeddings", "raise"),
        ({"method": "yarm"}, "model.pos_scaling_type", "did you mean 'yarn'"),
        ({"method": "Linear"}, "model.pos_scaling_type", "did you mean 'linear'"),
        ({"method": "pi"}, "model.pos_scaling_type", "did you mean 'linear'"),
        ({"method": None}, "model.pos_scaling_type", "did you mean 'none'"),
        ({"method": "xyz"}, "model.pos_scaling_type", "choose one of: none, linear"),
        ({"head_dim": 127}, "model.rotary_percentage", "127 (kv_channels 127"),
        ({"head_dim": 100, "rotary_percent": 0.25}, "model.rotary_percentage", "an even rotary dimension"),
        ({"head_dim": 0}, "model.kv_channels", "positive"),
        ({"head_dim": 64.0}, "model.kv_channels", "whole number"),
        ({"rotary_percent": 50}, "model.rotary_percentage", "not a percentage"),
        ({"rotary_percent": 0.0}, "model.rotary_percentage", "above 0"),
        ({"rotary_percent": 0.01}, "model.rotary_percentage", "at least 2"),
        ({"head_dim": 2, "method": "ntk"}, "model.pos_scaling_type", "above 2 for ntk"),
        ({"base": 1}, "model.rotary_base", "above 1"),
        ({"base": "1e4"}, "model.rotary_base", "without quotes"),
        ({"base": float("inf")}, "model.rotary_base", "finite"),
        ({"interleaved": "yes"}, "model.rotary_interleaved", "true or false"),
        ({"extra_args": [1]}, "model.pos_scaling_extra_args", "a mapping"),
    ],
    ids=str,
)
def test_refusals_name_the_key(changes: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(**changes)
    assert caught.value.field == field
    assert words in str(caught.value)


def test_every_way_in_is_validated() -> None:
    with pytest.raises(ConfigError, match="pos_scaling_factor"), as_in_a_yaml():
        ContextExtension(2048, 32768, "linear", 8.0)
    with pytest.raises(ConfigError, match="pos_scaling_factor"), as_in_a_yaml():
        replace(build(), target_window=4096)
    with pytest.raises(ConfigError, match="max_position_embeddings"), as_in_a_yaml():
        ContextExtension.from_dict(build().to_dict() | {"target_window": 1})
    with pytest.raises(ConfigError, match=r"original_max_position_embeddings.*given None"), as_in_a_yaml():
        ContextExtension.from_dict({"target_window": 1})


def test_frozen_and_hashable(spec: ContextExtension) -> None:
    with pytest.raises(FrozenInstanceError):
        spec.factor = 2.0  # type: ignore[misc]
    assert len({spec, replace(spec)}) == 1


@pytest.mark.parametrize("seed", range(21))
def test_json_round_trip(seed: int) -> None:
    spec = random_spec(seed)
    values = json.loads(json.dumps(spec.to_dict()))
    assert ContextExtension.from_dict(values | {"written_by_a_later_version": 1}) == spec


def test_unscaled() -> None:
    spec = ContextExtension.unscaled(4096, 80, 5e5, 0.4, True)
    assert (spec.original_window, spec.target_window, spec.method) == (4096, 4096, "none")
    assert (spec.base, spec.rotary_dim, spec.interleaved, spec.is_scaled) == (5e5, 32, True, False)


def test_extra_args_cannot_be_changed_through_the_view() -> None:
    spec = make_spec("llama3")
    spec.extra_args["low_freq_factor"] = 2.0
    assert spec.extra_args["low_freq_factor"] == 1.0


def test_values_as_a_yaml_gives_them() -> None:
    lists = {"short_factor": [1, 1.5], "long_factor": [2, 3], "attention_factor": None}
    extra = OmegaConf.create(lists)
    spec = build(method="longrope", head_dim=4, extra_args=extra)
    assert spec.extra == (("long_factor", (2.0, 3.0)), ("short_factor", (1.0, 1.5)))
