"""Rotary tables made from each sample's own positions.

Shape legend: B batch (micro-batch rows), S sequence, F rotary pairs (rotary_dim / 2).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nemo_pi.rope.spec import ContextExtension
from nemo_pi.rope.tables import rotary_cos_sin


class RotaryTables(nn.Module):
    """Turns position ids into the cosines and sines that every layer of a step shares.

    It has no parameters and no buffers: everything follows from the extension spec, so nothing about
    positions can be lost or go stale in a checkpoint.
    """

    def __init__(self, extension: ContextExtension) -> None:
        super().__init__()
        self.extension = extension

    @torch.no_grad()
    def forward(self, position_ids_BS: Tensor, seq_len: int | None = None) -> Tensor:
        """Makes the tables.

        Args:
            position_ids_BS: int64 positions, in tokens of the target window.
            seq_len: largest position of the whole sequence plus one, for the methods that depend on it. None
                reads it off the positions; a rank that holds a part of the sequence has to be told.

        Returns:
            fp32 [2, S, B, 1, F]: cosines, then sines, the attention temperature folded in. One tensor,
            because Megatron's recomputation saves its arguments as tensors.
        """
        cos_BSF, sin_BSF = rotary_cos_sin(self.extension, position_ids_BS, seq_len)
        return torch.stack((cos_BSF, sin_BSF)).transpose(1, 2).unsqueeze(3)
