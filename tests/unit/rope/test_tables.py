"""Frequencies of every method against transformers and against the published formulas in float64."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from nemo_pi.rope.hf import from_hf
from nemo_pi.rope.spec import ContextExtension
from nemo_pi.rope.tables import attention_factor, inverse_frequencies, same_frequencies
from tests.unit.rope.peers import METHODS, Peer, exact_frequencies, lengths_of, make_spec, random_spec

EPS = 2.0**-24
"""Relative error of rounding to fp32."""
GOLDEN = Path(__file__).parents[2] / "golden" / "rope_transformers_5.23.0.json"


def assert_agrees(spec: ContextExtension) -> None:
    """Ours is transformers' and, within the error of its fp32 operations, the formula."""
    peer = Peer(spec)
    for seq_len in lengths_of(spec):
        ours_F = inverse_frequencies(spec, seq_len)
        theirs_F, their_factor = peer.frequencies(seq_len)
        assert ours_F.dtype == torch.float32 and ours_F.shape == (spec.rotary_dim // 2,)
        # Two roundings at most: GPT-NeoX's and Llama's plain rotations are written a little differently.
        assert_close(ours_F, theirs_F.float(), rtol=2 * EPS, atol=0.0)
        assert attention_factor(spec, seq_len) == pytest.approx(their_factor, rel=1e-15)
        # b^x with x rounded to fp32 is off by ln b · EPS, a stretched base by as much again; llama3's ramp
        # takes a difference of numbers up to 8 times its size.
        largest = math.log(spec.base * max(1.0, spec.factor * (seq_len or 1)) ** 1.2)
        exact_F = torch.tensor(exact_frequencies(spec, seq_len), dtype=torch.float64)
        assert_close(ours_F.double(), exact_F, rtol=EPS * (20 + 4 * largest), atol=0.0)


@pytest.mark.parametrize("seed", range(105))
def test_random_specs_agree_with_transformers(seed: int) -> None:
    assert_agrees(random_spec(seed))


@pytest.mark.parametrize("method", METHODS)
def test_grid_agrees_with_transformers(method: str) -> None:
    for base, head_dim, original, factor in product((1e4, 5e5), (32, 128), (128, 2048), (1, 2, 16)):
        target = original * factor
        assert_agrees(
            make_spec(method, base=base, head_dim=head_dim, original_window=original, target_window=target)
        )


@pytest.mark.parametrize("extra", [{"low_freq_factor": 1.0, "high_freq_factor": 4.0}, {"low_freq_factor": 2}])
def test_llama3_factor_apart_from_windows(extra: dict[str, Any]) -> None:
    """Llama 3.1 itself: factor 8, 8,192 → 131,072."""
    windows = {"original_window": 8192, "target_window": 131072, "factor": 8.0}
    assert_agrees(make_spec("llama3", **windows, base=500000.0, head_dim=128, extra_args=extra))


@pytest.mark.parametrize("case", json.loads(GOLDEN.read_text())["cases"], ids=lambda case: case["name"])
def test_golden_numbers(case: dict[str, Any]) -> None:
    """Published configurations against numbers that transformers 5.23.0 gave, whatever is installed now."""
    spec = from_hf(case["config"], case["head_dim"])
    expected_F = torch.tensor(case["inverse_frequencies"], dtype=torch.float32)
    # Another machine's pow may round otherwise, by a few units of the exponent's error.
    assert_close(inverse_frequencies(spec, case["seq_len"]), expected_F, rtol=4e-6, atol=0.0)
    assert attention_factor(spec, case["seq_len"]) == pytest.approx(case["attention_factor"], rel=1e-12)


@pytest.mark.parametrize("rotary_percent", [0.25, 0.4, 1.0])
def test_linear_by_one_is_plain_bit_for_bit(rotary_percent: float) -> None:
    same = {"target_window": 512, "head_dim": 80, "rotary_percent": rotary_percent}
    plain_F = inverse_frequencies(make_spec("none", **same))
    assert torch.equal(inverse_frequencies(make_spec("linear", **same)), plain_F)


def test_partial_rotary_takes_the_rotated_channels_only() -> None:
    """Half of 128 channels has the frequencies of a head of 64, not those of every other pair of 128."""
    half_F = inverse_frequencies(make_spec("linear", head_dim=128, rotary_percent=0.5))
    assert torch.equal(half_F, inverse_frequencies(make_spec("linear", head_dim=64)))


@pytest.mark.parametrize("method", ["dynamic", "longrope"])
def test_lengths_within_the_window_are_alike(method: str) -> None:
    spec = make_spec(method)
    within_F = inverse_frequencies(spec)
    assert torch.equal(inverse_frequencies(spec, 1), within_F)
    assert torch.equal(inverse_frequencies(spec, 512), within_F)
    assert (inverse_frequencies(spec, 513) < within_F)[1:].all()


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("dynamic", "longrope")])
def test_other_methods_ignore_the_length(method: str) -> None:
    spec = make_spec(method)
    assert not spec.depends_on_length
    assert torch.equal(inverse_frequencies(spec, 10**7), inverse_frequencies(spec, 3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_default_dtype_does_not_matter(
    spec: ContextExtension, dtype: torch.dtype, set_default_dtype: Callable[[torch.dtype], None]
) -> None:
    expected_F = inverse_frequencies(spec, 4096)
    set_default_dtype(dtype)
    assert torch.equal(inverse_frequencies(spec, 4096), expected_F)


def test_meta_initialisation_leaves_real_numbers(spec: ContextExtension) -> None:
    with torch.device("meta"):
        inverse_F = inverse_frequencies(spec, 4096)
    assert inverse_F.device.type == "cpu"
    assert inverse_frequencies(spec, device="meta").device.type == "meta"


def test_explicit_attention_factor_wins() -> None:
    extra = {"attention_factor": 1.25, "mscale": 2.0, "mscale_all_dim": 1.0}
    assert attention_factor(make_spec("yarn", extra_args=extra)) == 1.25


@pytest.mark.parametrize("method", METHODS)
def test_which_lengths_are_rotated_alike(method: str) -> None:
    """As inverse_frequencies says; make_spec's original window lies between the lengths."""
    spec = make_spec(method)
    window = spec.original_window
    pairs = product((1, window, window + 1, 2 * window, 2 * window + 1), repeat=2)
    for first, second in pairs:
        alike = torch.equal(inverse_frequencies(spec, first), inverse_frequencies(spec, second))
        assert same_frequencies(spec, first, second) == alike
    assert same_frequencies(spec, window, window + 1) == (method not in ("dynamic", "longrope"))
    assert same_frequencies(spec, 2 * window, 2 * window + 1) == (method != "dynamic")
