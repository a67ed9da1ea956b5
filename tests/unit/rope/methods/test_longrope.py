"""LongRoPE's two lists and its temperature."""

from __future__ import annotations

import math

import pytest
import torch

from nemo_pi.rope.methods import longrope, plain


def test_long_factors_begin_one_token_beyond_the_window() -> None:
    lists = [1.0, 2.0], [4.0, 8.0]
    plain_F = plain.inverse_frequencies(4, 1e4)
    for seq_len, divisors in ((None, lists[0]), (512, lists[0]), (513, lists[1])):
        inverse_F = longrope.inverse_frequencies(4, 1e4, 512, *lists, seq_len)
        assert torch.equal(inverse_F, plain_F / torch.tensor(divisors)), seq_len


def test_temperature() -> None:
    """Phi-3: 4,096 → 131,072, sqrt(1 + ln 32 / ln 4096) = sqrt(1 + 5/12)."""
    assert longrope.attention_factor(32.0, 4096) == pytest.approx(math.sqrt(17 / 12))
    assert longrope.attention_factor(1.0, 4096) == 1.0
