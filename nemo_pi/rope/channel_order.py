"""The two orders in which a head's rotated channels can be stored."""

from __future__ import annotations

import torch
from torch import Tensor


def halves_from_interleaved(head_dim: int, rotary_dim: int) -> Tensor:
    """Where each channel of the half-rotate layout stands in the interleaved one.

    `rows_halves = rows_interleaved[index]`, with the rows of one head's q or k projection, makes a model that
    rotates halves compute what the interleaved one did: q·k is the same sum in another order.

    Returns:
        int64 [head_dim], on the CPU whatever the default device: there it indexes weights anywhere. Channels
        beyond rotary_dim stay.
    """
    channels = torch.arange(head_dim, device="cpu")
    # Transposed, pairs [D/2, 2] give the first channels of all pairs, then the second ones.
    return torch.cat((channels[:rotary_dim].view(-1, 2).t().reshape(-1), channels[rotary_dim:]))


def interleaved_from_halves(head_dim: int, rotary_dim: int) -> Tensor:
    """The inverse of halves_from_interleaved; int64 [head_dim]."""
    return torch.argsort(halves_from_interleaved(head_dim, rotary_dim))
