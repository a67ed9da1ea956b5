"""Megatron's self-attention with rotary embeddings taken from the sample's positions.

Stock megatron-core rotates by the index of a token in its row and ignores position_ids. Here the
tables arrive through the argument that the transformer block already hands down (rotary_pos_emb), and
are used where query and key are made, so Megatron's own rotary code never runs.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.transformer.attention import SelfAttention
from torch import Tensor

from nemo_pi.kernels.registry import RotaryNeeds, select_rotary_kernel


def rotary_needs(head_dim: int, rotary_dim: int | None, interleaved: bool, dtype: torch.dtype) -> RotaryNeeds:
    """What a rotary kernel must be able to do for these heads on this machine."""
    return RotaryNeeds(
        head_dim=head_dim,
        rotary_dim=rotary_dim,
        interleaved=interleaved,
        device_type="cuda" if torch.cuda.is_available() else "cpu",
        dtype=dtype,
    )


class RotarySelfAttention(SelfAttention):
    """SelfAttention whose query and key are rotated by nemo_pi's kernel."""

    def __init__(
        self, *args: Any, rotary_kernel: str = "auto", rotary_dim: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        needs = rotary_needs(
            self.config.kv_channels, rotary_dim, self.config.rotary_interleaved, self.config.params_dtype
        )
        self._kernel = select_rotary_kernel(rotary_kernel, needs)
        self._tables: Tensor | None = None

    def forward(self, *args: Any, rotary_pos_emb: Tensor | None = None, **kwargs: Any) -> Any:
        """As Megatron's, with `rotary_pos_emb` the [2, S, B, 1, F] tables of RotaryTables."""
        self._tables = rotary_pos_emb
        try:
            return super().forward(*args, rotary_pos_emb=None, **kwargs)
        finally:
            self._tables = None

    def get_query_key_value_tensors(self, *args: Any, **kwargs: Any) -> Any:
        """Query, key and value [S, B, heads, head_dim], query and key already rotated."""
        query, key, value = super().get_query_key_value_tensors(*args, **kwargs)
        if self._tables is not None:
            cos, sin = self._tables.unbind(0)
            query, key = self._kernel(query, key, cos, sin, self.config.rotary_interleaved)
        return query, key, value
