"""NTK-aware scaling: what defines it."""

from __future__ import annotations

import pytest
import torch

from nemo_pi.errors import ConfigError
from nemo_pi.rope.methods import ntk, plain
from nemo_pi.rope.spec import ContextExtension


@pytest.mark.parametrize("factor", [1.0, 2.0, 7.5, 32.0])
def test_lowest_frequency_is_interpolated_highest_is_kept(factor: float) -> None:
    ratio_F = plain.inverse_frequencies(64, 1e4) / ntk.inverse_frequencies(64, 1e4, factor)
    assert ratio_F[0] == 1.0
    torch.testing.assert_close(ratio_F[-1], torch.tensor(factor), rtol=1e-5, atol=0.0)
    assert (ratio_F.diff() >= 0).all()


def test_scaled_base() -> None:
    """Four channels: the exponent is 4 / 2."""
    assert ntk.scaled_base(4, 1e4, 3.0) == 90000.0


@pytest.mark.parametrize("method", ["ntk", "dynamic"])
def test_the_smallest_head_that_its_exponent_allows(method: str) -> None:
    """D / (D - 2): two channels have none, four have 2."""
    windows = {"original_window": 8, "target_window": 16, "method": method}
    assert ContextExtension.build(**windows, head_dim=4).rotary_dim == 4
    with pytest.raises(ConfigError):
        ContextExtension.build(**windows, head_dim=2)
