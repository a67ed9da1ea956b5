"""Random inputs of causal attention, and one call in float64 to compare a way to compute it with.

Shape legend: B batch, N query heads, G key/value heads, S tokens, D head dim.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

B, N, D = 2, 4, 8


def draw(length: int, groups: int = N, width: int = D) -> list[Tensor]:
    """Query, key and value as a fused projection leaves them: views of one [S, B, G, N/G + 2, width]."""
    generator = torch.Generator().manual_seed(length)
    mixed = 2 * torch.randn(length, B, groups, N // groups + 2, width, generator=generator)
    parts = mixed.split((N // groups, 1, 1), dim=3)
    return [part.flatten(2, 3).permute(1, 2, 0, 3).requires_grad_() for part in parts]


def check_against_one_call(
    attend: Callable[..., Tensor], length: int, groups: int, scale: float | None, width: int = D
) -> None:
    """Outputs and gradients of `attend(q, k, v, scale=…)` are those of PyTorch's attention in float64."""
    inputs = draw(length, groups, width)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    out = attend(*inputs, scale=scale)
    expected = scaled_dot_product_attention(*exact, is_causal=True, scale=scale, enable_gqa=True)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    ours = torch.autograd.grad(out, inputs, upstream)
    theirs = torch.autograd.grad(expected, exact, upstream.double())
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our.double(), their, rtol=1e-4, atol=1e-5)
