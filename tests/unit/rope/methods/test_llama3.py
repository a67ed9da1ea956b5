"""Llama 3.1's scaling at its own numbers."""

from __future__ import annotations

import math

import torch

from nemo_pi.rope.methods import llama3, plain


def test_ends_are_kept_and_divided_exactly() -> None:
    plain_F = plain.inverse_frequencies(128, 500000.0)
    scaled_F = llama3.inverse_frequencies(128, 500000.0, 8.0, 8192, 1.0, 4.0)
    wavelength_F = 2 * math.pi / plain_F
    short_F, long_F = wavelength_F < 8192 / 4, wavelength_F > 8192
    assert (short_F.sum(), long_F.sum()) == (29, 29)
    assert torch.equal(scaled_F[short_F], plain_F[short_F])
    assert torch.equal(scaled_F[long_F], plain_F[long_F] / 8)
    between_F = ~short_F & ~long_F
    assert ((scaled_F < plain_F) & (scaled_F > plain_F / 8))[between_F].all()


def test_each_number_matters() -> None:
    numbers = {"factor": 8.0, "original_window": 8192, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    published_F = llama3.inverse_frequencies(128, 500000.0, **numbers)
    for name, value in numbers.items():
        changed_F = llama3.inverse_frequencies(128, 500000.0, **numbers | {name: type(value)(value * 2)})
        assert not torch.equal(changed_F, published_F), name
