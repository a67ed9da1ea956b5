"""A base chosen freely: plain RoPE of that base, in float64 and in transformers; and its lower bound."""

from __future__ import annotations

import math

import pytest
import torch

from nemo_pi.errors import ConfigError
from nemo_pi.rope.hf import RECORD, from_hf, to_hf
from nemo_pi.rope.methods.abf import least_base
from nemo_pi.rope.tables import inverse_frequencies, rotary_cos_sin
from tests.unit.rope.peers import make_spec

FAR = [0, 1, 511, 512, 4095, 4096, 131_071, 10_000_000]


@pytest.mark.parametrize("base", [1e6, 8e6, 500.0])
def test_it_is_plain_rope_of_that_base_in_float64(base: float) -> None:
    spec = make_spec("abf", extra_args={"base": base})
    exact_F = torch.tensor([base ** (-2 * j / 64) for j in range(32)], dtype=torch.float64)
    # b^x with x rounded to fp32 is off by ln b units of 2⁻²⁴, and a few roundings more.
    torch.testing.assert_close(
        inverse_frequencies(spec).double(), exact_F, rtol=2.0**-24 * (4 + math.log(base)), atol=0
    )
    assert torch.equal(
        inverse_frequencies(spec), inverse_frequencies(make_spec("none", base=base, target_window=512))
    )


def test_far_beyond_the_window_as_well() -> None:
    """Tables at positions up to ten million, against cos and sin of the same frequencies in float64."""
    spec = make_spec("abf", extra_args={"base": 8e6})
    angle_SF = torch.tensor(FAR, dtype=torch.float64)[:, None] * inverse_frequencies(spec).double()
    cos_SF, sin_SF = rotary_cos_sin(spec, torch.tensor(FAR))
    torch.testing.assert_close(cos_SF.double(), angle_SF.cos(), rtol=0, atol=2.0**-24)
    torch.testing.assert_close(sin_SF.double(), angle_SF.sin(), rtol=0, atol=2.0**-24)


def test_the_windows_do_not_enter() -> None:
    first = make_spec("abf", extra_args={"base": 8e6})
    second = make_spec("abf", extra_args={"base": 8e6}, target_window=8192)
    assert torch.equal(inverse_frequencies(first), inverse_frequencies(second))
    assert (first.factor, second.factor) == (8.0, 16.0), "the factor says how the windows stand"


def test_the_base_must_be_given_and_the_mend_is_one_that_reaches_the_bound() -> None:
    with pytest.raises(ConfigError) as caught:
        make_spec("abf", extra_args={})
    assert caught.value.field == "extra_args.base"
    offered = float(caught.value.fix.partition("{base: ")[2].partition("}")[0])
    assert offered == pytest.approx(least_base(4096), rel=1e-2)
    with pytest.raises(ConfigError, match="write base instead"):
        make_spec("abf", extra_args={"rope_theta": 1e6})
    with pytest.raises(ConfigError, match="above 1; given 1"):
        make_spec("abf", extra_args={"base": 1})


@pytest.mark.parametrize("window", [2048, 4096, 8192])
def test_the_bound_is_where_the_paper_s_property_begins(window: int) -> None:
    """Σ_j cos(m·θ_j) ≥ 0 at every m below the window, for heads of 128 channels: searched by brute force."""

    def holds(base: float) -> bool:
        theta_F = base ** -(torch.arange(0, 128, 2, dtype=torch.float64) / 128)
        distances_L = torch.arange(window, dtype=torch.float64)
        return bool((torch.cos(distances_L[:, None] * theta_F).sum(1) >= 0).all())

    ratios = [10 ** (step / 40) for step in range(-20, 21)]
    first = next(ratio for ratio in ratios if holds(ratio * least_base(window)))
    assert 0.8 < first < 1.5


def test_the_checkpoint_s_own_base_scales_nothing() -> None:
    assert not make_spec("abf", extra_args={"base": 10000}).is_scaled
    assert make_spec("abf", extra_args={"base": 9999}).is_scaled


def test_without_the_record_it_is_a_model_of_that_base() -> None:
    entries = to_hf(make_spec("abf", extra_args={"base": 8e6}))
    assert entries["rope_parameters"] == {"rope_type": "default", "rope_theta": 8e6}
    assert from_hf(entries, 64).extra_args == {"base": 8e6}
    del entries[RECORD]
    read = from_hf(entries, 64)
    assert (read.method, read.base, read.original_window) == ("none", 8e6, 4096)
