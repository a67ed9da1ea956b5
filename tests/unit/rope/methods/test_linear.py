"""Position Interpolation: position s·m reads like m did before."""

from __future__ import annotations

import torch

from nemo_pi.rope.methods import linear, plain
from nemo_pi.rope.tables import rotary_cos_sin
from tests.unit.rope.peers import make_spec


def test_divides_every_frequency() -> None:
    assert torch.equal(linear.inverse_frequencies(64, 1e4, 16.0) * 16, plain.inverse_frequencies(64, 1e4))


def test_scaled_positions_have_the_old_angles_bit_for_bit() -> None:
    """A factor that is a power of two loses no bits, so position 8m under PI is position m without."""
    positions = torch.arange(512)
    stretched = rotary_cos_sin(make_spec("linear"), 8 * positions)
    plain_tables = rotary_cos_sin(make_spec("none"), positions)
    assert all(torch.equal(a, b) for a, b in zip(stretched, plain_tables, strict=True))
