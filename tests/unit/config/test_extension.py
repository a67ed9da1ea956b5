from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
import yaml

from nemo_pi.checkpoint.summary import CheckpointSummary
from nemo_pi.config.extension import resolve_extension, resolve_training_length
from nemo_pi.config.schema import ModelConfig
from nemo_pi.errors import ConfigError
from nemo_pi.rope.hf import from_hf
from nemo_pi.rope.spec import ContextExtension
from nemo_pi.rope.tables import inverse_frequencies
from tests.unit.config.builders import SHAPE, summary_of
from tests.unit.rope.peers import make_spec


def extension_of(summary: CheckpointSummary | None = None, **model: Any) -> ContextExtension:
    return resolve_extension(ModelConfig(**model), SHAPE, summary or summary_of())[0]


def refusal(summary: CheckpointSummary | None = None, **model: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        resolve_extension(ModelConfig(**model), SHAPE, summary or summary_of())
    return caught.value


def windows(extension: ContextExtension) -> tuple[int, int, str, float]:
    return extension.original_window, extension.target_window, extension.method, extension.factor


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({}, (512, 512, "linear", 1.0)),
        ({"max_position_embeddings": 4096}, (512, 4096, "linear", 8.0)),
        ({"max_position_embeddings": 768}, (512, 768, "linear", 1.5)),
        ({"pos_scaling_factor": 4.0}, (512, 2048, "linear", 4.0)),
        ({"max_position_embeddings": 4096, "pos_scaling_factor": 8.0}, (512, 4096, "linear", 8.0)),
        ({"max_position_embeddings": 4096, "seq_len_interpolation_factor": 8.0}, (512, 4096, "linear", 8.0)),
        ({"seq_len_interpolation_factor": 8.0, "pos_scaling_type": "linear"}, (512, 4096, "linear", 8.0)),
        ({"max_position_embeddings": 4096, "pos_scaling_type": "yarn"}, (512, 4096, "yarn", 8.0)),
        ({"max_position_embeddings": 4096, "pos_scaling_type": "none"}, (512, 4096, "none", 1.0)),
        ({"original_max_position_embeddings": 512, "pos_scaling_factor": 2.0}, (512, 1024, "linear", 2.0)),
    ],
)
def test_windows_and_factor_follow_from_each_other(
    model: dict[str, Any], expected: tuple[int, int, str, float]
) -> None:
    assert windows(extension_of(**model)) == expected


def test_rotation_comes_from_the_checkpoint() -> None:
    plain = ContextExtension.unscaled(512, 64, base=5e5, rotary_percent=0.5, interleaved=True)
    extension = extension_of(summary_of(extension=plain), max_position_embeddings=1024)
    assert (extension.base, extension.rotary_percent, extension.interleaved) == (5e5, 0.5, True)


def test_factor_that_disagrees_with_the_windows_shows_both_numbers() -> None:
    error = refusal(max_position_embeddings=4096, pos_scaling_factor=16.0)
    assert error.field == "model.pos_scaling_factor"
    assert "8192" in str(error)
    assert "4096" in str(error)


@pytest.mark.parametrize(
    ("model", "field", "words"),
    [
        ({"pos_scaling_factor": 0.0}, "pos_scaling_factor", "at least 1"),
        ({"pos_scaling_factor": -2.0}, "pos_scaling_factor", "at least 1"),
        ({"pos_scaling_factor": 0.125}, "pos_scaling_factor", "8, its inverse"),
        ({"seq_len_interpolation_factor": 0.5}, "seq_len_interpolation_factor", "2, its inverse"),
        ({"max_position_embeddings": 256}, "max_position_embeddings", "512"),
        ({"pos_scaling_type": "lineal"}, "pos_scaling_type", "linear"),
        ({"pos_scaling_type": "pi"}, "pos_scaling_type", "did you mean 'linear'"),
        ({"pos_scaling_type": "none", "pos_scaling_factor": 8.0}, "pos_scaling_factor", "linear"),
        (
            {"pos_scaling_factor": 8.0, "seq_len_interpolation_factor": 8.0},
            "seq_len_interpolation_factor",
            "both spell the same",
        ),
        (
            {"pos_scaling_type": "yarn", "seq_len_interpolation_factor": 8.0},
            "seq_len_interpolation_factor",
            "pos_scaling_factor=8",
        ),
        ({"original_max_position_embeddings": 1024}, "original_max_position_embeddings", "config.json"),
        ({"original_max_position_embeddings": 256}, "original_max_position_embeddings", "config.json"),
        ({"rotary_base": 5e5}, "rotary_base", "ntk"),
        ({"rotary_percentage": 0.5}, "rotary_percentage", "null"),
        ({"rotary_interleaved": True}, "rotary_interleaved", "null"),
        (
            {"pos_scaling_type": "yarn", "pos_scaling_extra_args": {"beta_fats": 3.0}},
            "pos_scaling_extra_args.beta_fats",
            "beta_fast",
        ),
    ],
)
def test_contradictions_are_refused(model: dict[str, Any], field: str, words: str) -> None:
    error = refusal(**model)
    assert error.field == f"model.{field}"
    assert words in str(error)


def test_odd_rotary_dimension_is_refused() -> None:
    with pytest.raises(ConfigError, match="even"):
        resolve_extension(
            ModelConfig(max_position_embeddings=512, rotary_percentage=0.33),
            replace(SHAPE, head_dim=64),
            None,
        )


class TestScaledCheckpoint:
    """A checkpoint that linear scaling by 8 took from 512 to 4,096 tokens."""

    held = ContextExtension.build(original_window=512, target_window=4096, head_dim=64)
    summary = summary_of(extension=held)

    @pytest.mark.parametrize(
        "model",
        [
            {},
            {"max_position_embeddings": 4096},
            {"max_position_embeddings": 4096, "pos_scaling_factor": 8.0, "pos_scaling_type": "linear"},
            {"seq_len_interpolation_factor": 8.0},
            {"original_max_position_embeddings": 512},
        ],
    )
    def test_is_kept_where_the_same_is_asked_for(self, model: dict[str, Any]) -> None:
        assert extension_of(self.summary, **model) == self.held

    @pytest.mark.parametrize(
        ("model", "field"),
        [
            ({"max_position_embeddings": 8192}, "max_position_embeddings"),
            ({"max_position_embeddings": 32768, "pos_scaling_factor": 8.0}, "max_position_embeddings"),
            ({"pos_scaling_factor": 2.0}, "pos_scaling_factor"),
            ({"pos_scaling_factor": 1.0}, "pos_scaling_factor"),
            ({"max_position_embeddings": 4096, "pos_scaling_type": "yarn"}, "pos_scaling_type"),
            ({"pos_scaling_type": "none"}, "pos_scaling_type"),
            ({"original_max_position_embeddings": 4096}, "original_max_position_embeddings"),
        ],
    )
    def test_is_never_scaled_again_in_silence(self, model: dict[str, Any], field: str) -> None:
        error = refusal(self.summary, **model)
        assert error.field == f"model.{field}"
        assert "already scaled" in error.required
        assert "allow_rescaling=true" in error.fix
        assert "max_position_embeddings=4096" in error.fix

    def test_rescaling_counts_from_the_original_window(self) -> None:
        extension = extension_of(self.summary, max_position_embeddings=8192, allow_rescaling=True)
        assert windows(extension) == (512, 8192, "linear", 16.0)

    def test_rescaling_without_a_method_keeps_the_checkpoint_s(self) -> None:
        held = ContextExtension.build(
            original_window=512, target_window=4096, method="llama3", factor=4.0, head_dim=64,
            extra_args={"high_freq_factor": 6.0},
        )  # fmt: skip
        longer = {"max_position_embeddings": 8192, "allow_rescaling": True}
        extension = extension_of(summary_of(extension=held), **longer)
        assert windows(extension) == (512, 8192, "llama3", 16.0)
        assert extension.extra_args == held.extra_args
        named = extension_of(summary_of(extension=held), pos_scaling_type="llama3", **longer)
        assert named.extra_args["high_freq_factor"] == 4.0, "a method that is named has its own defaults"
        linear = extension_of(summary_of(extension=held), pos_scaling_type="linear", **longer)
        assert windows(linear) == (512, 8192, "linear", 16.0)

    def test_the_old_spelling_asks_for_linear(self) -> None:
        yarn = summary_of(extension=replace(self.held, method="yarn"))
        error = refusal(yarn, seq_len_interpolation_factor=8.0)
        assert error.field == "model.pos_scaling_type"
        assert "yarn by 8" in error.required

    @pytest.mark.parametrize("method", ["abf", "proportional"])
    def test_newer_methods_are_kept_and_rescaled(self, method: str) -> None:
        held = make_spec(method)
        summary = summary_of(extension=held)
        assert extension_of(summary) == held
        assert extension_of(summary, pos_scaling_extra_args=held.extra_args) == held
        assert extension_of(summary, pos_scaling_type=method, pos_scaling_factor=8.0) == held
        name, value = held.extra[0]
        assert refusal(summary, pos_scaling_extra_args={name: value * 2}).field.startswith(
            "model.pos_scaling"
        )
        longer = extension_of(summary, max_position_embeddings=8192, allow_rescaling=True)
        assert windows(longer) == (512, 8192, method, 16.0)
        assert longer.extra == held.extra
        other = extension_of(
            summary, max_position_embeddings=8192, allow_rescaling=True, pos_scaling_type="yarn"
        )
        assert other.base == 10000.0, "the base counts from the original one, too"

    def test_windows_may_be_corrected_where_positions_stay(self) -> None:
        """A linear config.json whose one window was left at the original length: 64 × 4, not 16 × 4."""
        held = from_hf({"max_position_embeddings": 64, "rope_scaling": {"type": "linear", "factor": 4.0}}, 64)
        summary = summary_of(extension=held)
        both = {"original_max_position_embeddings": 64, "max_position_embeddings": 256}
        for extra in ({}, {"pos_scaling_type": "linear", "pos_scaling_factor": 4.0}):
            extension, source = resolve_extension(ModelConfig(**both, **extra), SHAPE, summary)
            assert windows(extension) == (64, 256, "linear", 4.0)
            assert source.endswith("says 16)") and source.startswith("model.original_max")
            assert torch.equal(inverse_frequencies(extension), inverse_frequencies(held))
        assert refusal(summary, **both | {"max_position_embeddings": 512}).field.endswith("embeddings")
        yarn = summary_of(extension=make_spec("yarn"))
        doubled = {"original_max_position_embeddings": 1024, "max_position_embeddings": 8192}
        assert "already scaled" in refusal(yarn, **doubled).required, "its frequencies know the window"

    def test_arguments_written_out_at_their_defaults_are_the_same(self) -> None:
        held = replace(self.held, method="yarn")
        summary = summary_of(extension=held)
        asked = {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": True, "mscale": None}
        assert extension_of(summary, pos_scaling_extra_args=asked) == held
        error = refusal(summary, pos_scaling_extra_args={"beta_fast": 16.0})
        assert error.field == "model.pos_scaling_extra_args"

    def test_lists_compare_by_value(self) -> None:
        factors = {"short_factor": [1.0] * 32, "long_factor": [2.0] * 32}
        held = ContextExtension.build(
            original_window=512, target_window=4096, method="longrope", head_dim=64, extra_args=factors
        )
        assert extension_of(summary_of(extension=held), pos_scaling_extra_args=factors) == held


def test_directly_fine_tuned_checkpoint_starts_from_the_window_it_was_trained_at() -> None:
    tuned = replace(ContextExtension.unscaled(512, 64), target_window=4096)
    assert windows(extension_of(summary_of(extension=tuned), pos_scaling_factor=2.0))[:2] == (4096, 8192)


def test_a_base_of_one_s_own_is_abf_s_and_the_mend_works() -> None:
    plain = summary_of(extension=ContextExtension.unscaled(512, 64, base=5e5))
    error = refusal(plain, max_position_embeddings=4096, rotary_base=8e6)
    assert error.field == "model.rotary_base"
    written = re.search(r"pos_scaling_type=(\w+) 'model.pos_scaling_extra_args=(\{.*?\})'", error.fix)
    assert written is not None and "model.rotary_base=null" in error.fix
    method, arguments = written[1], yaml.safe_load(written[2])
    extension = extension_of(
        plain, max_position_embeddings=4096, pos_scaling_type=method, pos_scaling_extra_args=arguments
    )
    assert windows(extension) == (512, 4096, "abf", 8.0)
    assert (extension.base, extension.extra_args) == (5e5, {"base": 8e6})


def test_only_a_sliding_window_lets_the_yaml_correct_the_original_window() -> None:
    plain = ContextExtension.unscaled(32768, 64)
    sliding = summary_of(replace(SHAPE, family="mistral", sliding_window=4096), extension=plain)
    wanted = {"original_max_position_embeddings": 8192, "max_position_embeddings": 32768}
    extension, source = resolve_extension(ModelConfig(**wanted), sliding.shape, sliding)
    assert windows(extension) == (8192, 32768, "linear", 4.0)
    assert "32768" in source
    assert refusal(summary_of(extension=plain), **wanted).field == "model.original_max_position_embeddings"
    longer = {"original_max_position_embeddings": 65536}
    assert refusal(sliding, **longer).field == "model.original_max_position_embeddings"


def test_a_window_that_the_checkpoint_overstates_is_corrected_by_two_keys() -> None:
    """Mistral-Nemo's first config.json names 1,024,000 tokens; it was pretrained on 131,072."""
    nemo = summary_of(extension=ContextExtension.unscaled(1_024_000, 64))
    wanted = {"original_max_position_embeddings": 131_072, "max_position_embeddings": 524_288}
    error = refusal(nemo, **wanted)
    assert "model.allow_rescaling=true" in error.fix
    extension, source = resolve_extension(ModelConfig(**wanted, allow_rescaling=True), SHAPE, nemo)
    assert windows(extension) == (131_072, 524_288, "linear", 4.0)
    assert source.startswith("model.original_max") and "1024000" in source
    as_it_is = ModelConfig(
        original_max_position_embeddings=131_072, pos_scaling_type="none", allow_rescaling=True
    )
    assert windows(resolve_extension(as_it_is, SHAPE, nemo)[0]) == (131_072, 131_072, "none", 1.0)
    for impossible in (0, -1, 1_024_001):
        keys = {"original_max_position_embeddings": impossible, "max_position_embeddings": 2_000_000}
        assert "allow_rescaling" not in refusal(nemo, **keys, allow_rescaling=True).fix


def test_a_linear_checkpoint_s_window_may_be_said_when_it_is_rescaled() -> None:
    """Its one window is the original length: 64 tokens by 4, to be read to 512."""
    held = from_hf({"max_position_embeddings": 64, "rope_scaling": {"type": "linear", "factor": 4.0}}, 64)
    keys = {"original_max_position_embeddings": 64, "max_position_embeddings": 512, "allow_rescaling": True}
    assert windows(extension_of(summary_of(extension=held), **keys)) == (64, 512, "linear", 8.0)


@pytest.mark.parametrize(
    ("model", "expected", "source"),
    [
        ({"max_position_embeddings": 4096}, (4096, 4096, "linear", 1.0), "no checkpoint"),
        (
            {"max_position_embeddings": 4096, "original_max_position_embeddings": 512},
            (512, 4096, "linear", 8.0),
            "model.original_max_position_embeddings",
        ),
        ({"max_position_embeddings": 4096, "pos_scaling_factor": 8.0}, (512, 4096, "linear", 8.0), "÷"),
        ({"max_position_embeddings": 4096, "pos_scaling_factor": 1.6}, (2560, 4096, "linear", 1.6), "÷"),
    ],
)
def test_from_scratch(model: dict[str, Any], expected: tuple[int, int, str, float], source: str) -> None:
    extension, where = resolve_extension(ModelConfig(**model), SHAPE, None)
    assert windows(extension) == expected
    assert source in where


def test_from_scratch_needs_a_window() -> None:
    with pytest.raises(ConfigError, match="max_position_embeddings"):
        resolve_extension(ModelConfig(), SHAPE, None)


def test_training_length() -> None:
    extension = extension_of(max_position_embeddings=4096)
    assert resolve_training_length(ModelConfig(), extension) == 4096
    assert resolve_training_length(ModelConfig(encoder_seq_length=512), extension) == 512
    assert resolve_training_length(ModelConfig(encoder_seq_length=4096), extension) == 4096
    for wrong in (0, -1, 4097):
        with pytest.raises(ConfigError, match="encoder_seq_length"):
            resolve_training_length(ModelConfig(encoder_seq_length=wrong), extension)
