"""Core attention on PyTorch's scaled_dot_product_attention, for stacks without Transformer Engine.

Megatron's local DotProductAttention holds the whole score matrix and refuses packed rows; this one is
memory-linear in the sequence and confines attention to each document of a row.

Shape legend: S sequence, B batch, N query heads, G key/value heads, D head dim.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from nemo_pi.errors import BackendUnavailableError

# Queries attended to at once under a sliding window, at least; fewer would be many small calls.
_SMALLEST_BLOCK = 512


@dataclass(frozen=True)
class DocumentBoundaries:
    """Where documents start in each row of a micro-batch.

    Travels in the slot Megatron hands down as packed_seq_params; `qkv_format` keeps its own code on the
    row-wise [S, B, heads, head_dim] layout.
    """

    starts: tuple[tuple[int, ...], ...]
    """Per row, ascending document starts in tokens, beginning with 0 and ending with S."""
    qkv_format: str = "sbhd"


def refuse_context_parallel(size: int) -> None:
    """Refuses to split sequences over ranks: positions and labels are not dealt out with them yet.

    Raises:
        BackendUnavailableError: `size` (context-parallel ranks) is above 1.
    """
    if size > 1:
        raise BackendUnavailableError(
            "model.context_parallel_size",
            required="1 (this version does not split sequences over ranks)",
            given=size,
            mend="set it to 1; sequence_parallel: true with tensor parallelism saves memory too",
        )


class SdpaCoreAttention(MegatronModule):
    """Causal attention over whole rows or, where boundaries are given, within each document."""

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        softmax_scale: float | None = None,
        **_: Any,
    ) -> None:
        super().__init__(config=config)
        refuse_context_parallel(config.context_parallel_size)
        self.softmax_scale = softmax_scale
        # Megatron's window is (left, right) tokens beside the query's own.
        self.lookback = config.window_size[0] if config.window_size else None

    def forward(
        self,
        query_SBND: Tensor,
        key_SBGD: Tensor,
        value_SBGD: Tensor,
        attention_mask: Tensor | None = None,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: DocumentBoundaries | None = None,
    ) -> Tensor:
        """Attention output [S, B, N·D] in the dtype of the query."""
        q, k, v = (x.permute(1, 2, 0, 3) for x in (query_SBND, key_SBGD, value_SBGD))
        if packed_seq_params is None:
            out_BNSD = self._attend(q, k, v)
        else:
            rows = zip(q.split(1), k.split(1), v.split(1), packed_seq_params.starts, strict=True)
            out_BNSD = torch.cat([self._attend_documents(*row) for row in rows])
        return out_BNSD.permute(2, 0, 1, 3).flatten(2)

    def _attend_documents(self, q: Tensor, k: Tensor, v: Tensor, starts: tuple[int, ...]) -> Tensor:
        parts = [self._attend(*(x[:, :, a:b] for x in (q, k, v))) for a, b in pairwise(starts) if b > a]
        return torch.cat(parts, dim=2)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.lookback is None or q.size(2) <= self.lookback + 1:
            return self._sdpa(q, k, v, None)
        return self._attend_window(q, k, v, self.lookback)

    def _attend_window(self, q: Tensor, k: Tensor, v: Tensor, lookback: int) -> Tensor:
        """Block by block of queries, so that no mask grows with the square of the sequence."""
        length, size = q.size(2), max(lookback + 1, _SMALLEST_BLOCK)
        place = torch.arange(length, device=q.device)
        parts = []
        for start in range(0, length, size):
            queries, keys = slice(start, start + size), slice(max(0, start - lookback), start + size)
            behind = place[queries, None] - place[keys]
            mask = (behind >= 0) & (behind <= lookback)
            parts.append(self._sdpa(q[:, :, queries], k[:, :, keys], v[:, :, keys], mask))
        return torch.cat(parts, dim=2)

    def _sdpa(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=mask is None,
            scale=self.softmax_scale,
            enable_gqa=q.size(1) != k.size(1),
        )
