"""Rows laid end to end for an attention that knows only that form, against the attention row by row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor, nn

from nemo_pi.errors import DataError
from nemo_pi.model.core_attention import DocumentBoundaries
from nemo_pi.model.te_documents import packed_parameters, with_documents
from nemo_pi.parallel.context import split_rows
from tests.unit.model.naive import naive_attention

S, B, N, G, D = 12, 2, 4, 2, 8
STARTS = ((0, 3, 4, S), (0, 12))
CPU = torch.device("cpu")


class EndToEnd(nn.Module):
    """Transformer Engine's contract for thd, written out: [T, heads, D] and the boundaries in T."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, packed_seq_params: PackedSeqParams | None = None
    ) -> Any:
        if packed_seq_params is None:
            return naive_attention(q, k, v)
        assert packed_seq_params.qkv_format == "thd" and q.dim() == 3
        assert packed_seq_params.max_seqlen_q == packed_seq_params.max_seqlen_kv == 12
        starts = (packed_seq_params.cu_seqlens_q.tolist(),)
        return naive_attention(q[:, None], k[:, None], v[:, None], starts)[:, 0]


def test_rows_laid_end_to_end_are_the_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(S, B, heads, D, generator=generator) for heads in (N, G, G))
    core = with_documents(EndToEnd)()
    found = core(q, k, v, packed_seq_params=DocumentBoundaries(STARTS))
    torch.testing.assert_close(found, naive_attention(q, k, v, STARTS))
    torch.testing.assert_close(core(q, k, v), naive_attention(q, k, v))


def test_boundaries_are_those_of_whole_rows_on_every_context_rank() -> None:
    starts = ((0, 4, 12), (0, 8, 12))
    for rank in range(2):
        documents = DocumentBoundaries(starts, split=split_rows(starts, 2, rank))
        packed = packed_parameters(documents, CPU)
        assert packed.cu_seqlens_q.tolist() == packed.cu_seqlens_kv.tolist() == [0, 4, 12, 20, 24]
        assert packed.max_seqlen_q == 8


def test_documents_that_cannot_be_split_by_themselves_are_refused() -> None:
    split = split_rows(STARTS, 2, 0)
    with pytest.raises(DataError, match=r"= 4; given a document of 3 tokens.*transformer_engine=false"):
        packed_parameters(DocumentBoundaries(STARTS, split=split), CPU)
