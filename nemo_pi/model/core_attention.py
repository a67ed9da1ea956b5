"""Core attention by PyTorch's scaled_dot_product_attention or a kernel of ours, without Transformer Engine.

Megatron's local DotProductAttention holds the whole score matrix and refuses packed rows and context
parallelism; this one is memory-linear in the sequence, confines attention to each document of a row, and
attends over rows that are split over context-parallel ranks.

Shape legend: S sequence (on a context-parallel rank its shard), B batch, N query heads, G key/value heads,
D head dim.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any, cast

import torch
import torch.distributed as dist
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.utils import is_layer_window_attention
from torch import Tensor

from nemo_pi.kernels.attention import SDPA, CausalAttention, PartAttention
from nemo_pi.kernels.shifted_attention import ShiftedAttention
from nemo_pi.model.causal import attend_causally
from nemo_pi.model.context_attention import SplitRows, attend_split_rows
from nemo_pi.model.kept_attention import Attend, KeptAttention
from nemo_pi.model.span_attention import Merged, Recomputed, SpanAttention
from nemo_pi.parallel.context import ContextSplit, split_rows


@dataclass(frozen=True)
class DocumentBoundaries:
    """Where documents start in each row of a micro-batch, and which tokens of a row this rank holds.

    Travels in the slot Megatron hands down as packed_seq_params; `qkv_format` keeps its own code on the
    row-wise [S, B, heads, head_dim] layout.
    """

    starts: tuple[tuple[int, ...], ...]
    """Per row, ascending document starts in tokens of the whole row, beginning with 0 and ending with S."""
    qkv_format: str = "sbhd"
    split: ContextSplit | None = None
    """How these rows are dealt over context-parallel ranks; None where there is one."""


class SdpaCoreAttention(MegatronModule):
    """Causal attention over whole rows or, where boundaries are given, within each document.

    Args:
        config, layer_number, attn_mask_type, attention_type, softmax_scale, pg_collection: Megatron's.
        backend: what attends; over rows split among ranks it must know parts (PartAttention).
        sliding_backend: what attends where this layer has a sliding window; None: the same.

    Attributes:
        kept: what spares the layer's recomputation attention, while that layer runs; else None.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        softmax_scale: float | None = None,
        pg_collection: ProcessGroupCollection | None = None,
        backend: CausalAttention = SDPA,
        sliding_backend: CausalAttention | None = None,
        **_: Any,
    ) -> None:
        super().__init__(config=config)
        self._scale, self._lookback = softmax_scale, None
        if is_layer_window_attention(config.window_size, config.window_attn_skip_freq, layer_number):
            # Megatron's window is (left, right) tokens beside the query's own.
            self._lookback = config.window_size[0]
            backend = sliding_backend or backend
        full = backend
        if isinstance(backend, ShiftedAttention):
            heads, ranks = config.num_attention_heads, config.tensor_model_parallel_size
            rank = pg_collection.tp.rank() if ranks > 1 and pg_collection is not None else 0
            backend, full = backend.of_heads(rank * heads // ranks, heads // ranks, heads), backend.full
        self.backend = backend
        self._in_training, self._in_use = (
            partial(attend_causally, scale=self._scale, lookback=self._lookback, backend=one)
            for one in (backend, full)
        )
        self.kept: KeptAttention | None = None
        self._context_group: dist.ProcessGroup | None = None
        if config.context_parallel_size > 1:
            assert pg_collection is not None, "split rows need the group that they are split over"
            self._context_group = pg_collection.cp

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
        if self._context_group is not None:
            split = self._split(query_SBND, packed_seq_params)
            rows = SplitRows(split, self._context_group, self._span_attention(query_SBND))
            attend = partial(attend_split_rows, rows=rows, through=self._through)
            return attend(query_SBND, key_SBGD, value_SBGD).flatten(2)
        q, k, v = (x.permute(1, 2, 0, 3) for x in (query_SBND, key_SBGD, value_SBGD))
        if packed_seq_params is None:
            out_BNSD = self._through(self._attend, q, k, v)
        else:
            # Row by row, because each has other boundaries; a document is a slice of its row, so no mask is
            # needed.
            each = zip(q.split(1), k.split(1), v.split(1), packed_seq_params.starts, strict=True)
            out_BNSD = torch.cat([self._attend_documents(*row) for row in each])
        return out_BNSD.permute(2, 0, 1, 3).flatten(2)

    @property
    def _attend(self) -> Callable[..., Tensor]:
        return self._in_training if self.training else self._in_use

    def _through(self, attend: Attend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """`attend(q, k, v)`, or what has been kept of it."""
        # What a window leaves to attend to is soon done again, and would keep the masks of its blocks.
        if self.kept is None or self._lookback is not None:
            return attend(q, k, v)
        return self.kept.attend(attend, q, k, v)

    def _span_attention(self, query: Tensor) -> SpanAttention:
        # Elsewhere, and with a window, nothing used here returns a log-sum-exp to merge parts by.
        if query.device.type == "cpu" and self._lookback is None:
            return Merged(self._scale, cast(PartAttention, self.backend))
        return Recomputed(self._attend)

    def _split(self, query_SBND: Tensor, documents: DocumentBoundaries | None) -> ContextSplit:
        assert self._context_group is not None
        size, rank = self._context_group.size(), self._context_group.rank()
        if documents is None:
            length, rows = size * query_SBND.size(0), query_SBND.size(1)
            return _split_whole_rows(rows, length, size, rank, query_SBND.device)
        assert documents.split is not None, "documents of split rows come with their split"
        return documents.split

    def _attend_documents(self, q: Tensor, k: Tensor, v: Tensor, starts: tuple[int, ...]) -> Tensor:
        each = [[x[:, :, a:b] for x in (q, k, v)] for a, b in pairwise(starts) if b > a]
        parts = [self._through(self._attend, *document) for document in each]
        return torch.cat(parts, dim=2)


@lru_cache(maxsize=8)
def _split_whole_rows(rows: int, length: int, size: int, rank: int, device: torch.device) -> ContextSplit:
    """Every layer of every step asks for the same one."""
    return split_rows([(0, length)] * rows, size, rank).to(device)
