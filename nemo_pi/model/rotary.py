"""Rotary tables made from each sample's own positions.

Shape legend: B batch (micro-batch rows), S sequence, F rotary pairs (rotary_dim / 2), K kinds of layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nemo_pi.families.shape import ModelShape
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
            fp32 [2·K, S, B, 1, F]: cosines, then sines, the attention temperature folded in; those of layers
            with a sliding window follow where they have rotary embeddings of their own. Where queries grow
            with their position, a last entry [S, B, 1, F] has what they are multiplied by, in every column.
            One tensor, because Megatron's recomputation saves its arguments as tensors.
        """
        tables = [
            table for kind in self.extension.kinds for table in rotary_cos_sin(kind, position_ids_BS, seq_len)
        ]
        if self.extension.query_scale is not None:
            scale_BS = self.extension.query_scale.at(position_ids_BS)
            tables.append(scale_BS[..., None].expand_as(tables[0]))
        return torch.stack(tables).transpose(1, 2).unsqueeze(3)


@dataclass(frozen=True)
class RotaryPlan:
    """Which of the tables each layer of a model is rotated by."""

    kinds: tuple[int | None, ...]
    """Per layer of the whole model its place in ContextExtension.kinds; None: it is not rotated."""
    scales_queries: bool = False
    """Whether the last table is what queries are multiplied by."""

    @classmethod
    def of(cls, shape: ModelShape, extension: ContextExtension) -> RotaryPlan:
        """Of a model's layers."""
        sliding = set(shape.sliding_layers) if extension.sliding is not None else set()
        kinds = [int(layer in sliding) for layer in range(shape.num_layers)]
        return cls(
            tuple(None if layer in shape.unrotated_layers else kind for layer, kind in enumerate(kinds)),
            extension.query_scale is not None,
        )
