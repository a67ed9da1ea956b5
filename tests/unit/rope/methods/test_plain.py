"""Plain RoPE's frequencies at values that can be checked by hand."""

from __future__ import annotations

import torch

from nemo_pi.rope.methods import plain


def test_powers_of_ten() -> None:
    """D = 8 and b = 10⁴: one radian per token, then a tenth of it each."""
    expected_F = torch.tensor([1.0, 0.1, 0.01, 0.001])
    torch.testing.assert_close(plain.inverse_frequencies(8, 10000.0), expected_F, rtol=2.0**-22, atol=0.0)
    torch.testing.assert_close(plain.wavelength_powers(8, 10000.0), 1 / expected_F, rtol=2.0**-22, atol=0.0)
