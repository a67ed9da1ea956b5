"""Both channel orders compute the same scores."""

from __future__ import annotations

import torch

from nemo_pi.kernels.reference import apply_rotary
from nemo_pi.rope.channel_order import halves_from_interleaved, interleaved_from_halves


def test_literal_order() -> None:
    assert halves_from_interleaved(8, 6).tolist() == [0, 2, 4, 1, 3, 5, 6, 7]
    assert interleaved_from_halves(8, 6).tolist() == [0, 3, 1, 4, 2, 5, 6, 7]


def test_on_the_cpu_also_where_lightning_builds_models() -> None:
    """Its default device is the GPU there, and an index from there cannot pick rows of weights read here."""
    with torch.device("meta"):
        orders = halves_from_interleaved(8, 6), interleaved_from_halves(8, 6)
    assert {order.device.type for order in orders} == {"cpu"}


def test_reordered_channels_rotate_alike() -> None:
    torch.manual_seed(0)
    x_ND, angle_F = torch.randn(3, 10), torch.randn(4)
    cos_F, sin_F = angle_F.cos(), angle_F.sin()
    order = halves_from_interleaved(10, 8)
    halves = apply_rotary(x_ND[:, order], cos_F, sin_F)
    assert torch.equal(halves, apply_rotary(x_ND, cos_F, sin_F, interleaved=True)[:, order])
    assert torch.equal(halves[:, interleaved_from_halves(10, 8)][:, order], halves)
