"""Several documents in a row for Transformer Engine's core attention, which wants them end to end (thd).

Megatron's other code keeps the row-wise [S, B, heads, head_dim] layout; only within the core attention are
the rows laid end to end and given with the places where documents begin. Not yet run on a GPU.

Shape legend: S sequence (on a context-parallel rank its shard), B rows, T = B·S tokens end to end.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor

from nemo_pi.errors import DataError
from nemo_pi.model.core_attention import DocumentBoundaries


def with_documents(core_attention: type) -> type:
    """A subclass of `core_attention` (TEDotProductAttention) that takes DocumentBoundaries."""

    class DocumentAttention(core_attention):
        """Causal attention within each document; whole rows go to Transformer Engine as they are."""

        def forward(
            self,
            query: Tensor,
            key: Tensor,
            value: Tensor,
            *args: Any,
            packed_seq_params: DocumentBoundaries | None = None,
            **kwargs: Any,
        ) -> Tensor:
            """Attention output [S, B, N·D]."""
            if packed_seq_params is None:
                return super().forward(query, key, value, *args, **kwargs)
            rows = query.size(1)
            packed = packed_parameters(packed_seq_params, query.device)
            end_to_end = (x.transpose(0, 1).flatten(0, 1) for x in (query, key, value))
            out = super().forward(*end_to_end, *args, packed_seq_params=packed, **kwargs)
            return out.reshape(rows, -1, query.size(2) * value.size(3)).transpose(0, 1)

    return DocumentAttention


def packed_parameters(documents: DocumentBoundaries, device: torch.device) -> PackedSeqParams:
    """Megatron's form of the boundaries: of whole rows, also where ranks hold parts of them.

    Raises:
        DataError: a document that context-parallel ranks cannot split by itself, as Transformer Engine does.
    """
    size = 1 if documents.split is None else documents.split.size
    ends, lengths = [0], []
    for row in documents.starts:
        lengths += [stop - start for start, stop in pairwise(row)]
        ends += [ends[-1] + stop for stop in row[1:]]
    if size > 1 and any(length % (2 * size) for length in lengths):
        given = next(length for length in lengths if length % (2 * size))
        raise DataError(
            "documents under context parallelism with Transformer Engine",
            required=f"lengths that are multiples of 2 × context_parallel_size = {2 * size}",
            given=f"a document of {given} tokens",
            fix="model.transformer_engine=false: PyTorch's attention splits documents of any length",
        )
    # int32: Transformer Engine's kernels take no other.
    cu_seqlens, longest = torch.tensor(ends, dtype=torch.int32, device=device), max(lengths)
    return PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=cu_seqlens,
        cu_seqlens_kv=cu_seqlens,
        max_seqlen_q=longest,
        max_seqlen_kv=longest,
    )
