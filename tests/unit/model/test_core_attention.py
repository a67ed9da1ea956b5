"""Core attention against a softmax written out in float64, and documents against themselves alone.

Shape legend: S sequence, B batch, N query heads, G key/value heads, D head dim.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from nemo_pi.errors import BackendUnavailableError
from nemo_pi.model import core_attention
from nemo_pi.model.core_attention import DocumentBoundaries, SdpaCoreAttention

S, B, N, G, D = 13, 2, 4, 2, 8


def attention(scale: float | None = None, **changes: Any) -> SdpaCoreAttention:
    config = TransformerConfig(num_layers=1, hidden_size=N * D, num_attention_heads=N, **changes)
    return SdpaCoreAttention(config, 1, AttnMaskType.causal, "self", softmax_scale=scale)


def draw(heads: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + heads)
    return (2 * torch.randn(S, B, heads, D, generator=generator)).to(dtype).requires_grad_()


def naive(
    query_SBND: Tensor,
    key_SBGD: Tensor,
    value_SBGD: Tensor,
    starts: tuple[tuple[int, ...], ...],
    window: int | None = None,
    scale: float | None = None,
) -> Tensor:
    """One query at a time, in float64."""
    query, key, value = (x.double() for x in (query_SBND, key_SBGD, value_SBGD))
    out = torch.zeros(S, B, N, D, dtype=torch.float64)
    for b in range(B):
        for s in range(S):
            first = max(start for start in starts[b] if start <= s)
            if window is not None:
                first = max(first, s - window + 1)
            for n in range(N):
                g = n * key.size(2) // N
                scores = key[first : s + 1, b, g] @ query[s, b, n] * (scale or 1 / math.sqrt(D))
                out[s, b, n] = torch.softmax(scores, 0) @ value[first : s + 1, b, g]
    return out.flatten(2)


WHOLE = ((0, S), (0, S))
DOCUMENTS = ((0, 4, 5, S), (0, 12, S))


@pytest.mark.parametrize("heads", [G, N, 1], ids=["grouped", "multi-head", "multi-query"])
@pytest.mark.parametrize("starts", [None, DOCUMENTS], ids=["rows", "documents"])
@pytest.mark.parametrize("window", [None, 1, 3, 6, S, 50])
def test_equals_naive_softmax(
    heads: int,
    starts: tuple[tuple[int, ...], ...] | None,
    window: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Forward, and backward through a random projection; windows in several blocks."""
    monkeypatch.setattr(core_attention, "_SMALLEST_BLOCK", 4)
    core = attention(window_size=None if window is None else (window - 1, 0))
    inputs = [draw(N), draw(heads), draw(heads, seed=9)]
    packed = None if starts is None else DocumentBoundaries(starts)
    out = core(*inputs, packed_seq_params=packed)
    expected = naive(*inputs, starts or WHOLE, window)
    assert out.shape == (S, B, N * D) and out.dtype == torch.float32
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)

    upstream = torch.randn(S, B, N * D, generator=torch.Generator().manual_seed(2))
    ours = torch.autograd.grad(out, inputs, upstream)
    theirs = torch.autograd.grad(expected, inputs, upstream.double())
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-4, atol=1e-5)


def test_scale_is_taken() -> None:
    inputs = [draw(N), draw(G), draw(G, seed=9)]
    out = attention(scale=0.05)(*inputs)
    torch.testing.assert_close(out.double(), naive(*inputs, WHOLE, scale=0.05), rtol=1e-5, atol=1e-5)


def test_keeps_bf16() -> None:
    inputs = [draw(heads, torch.bfloat16) for heads in (N, G, G)]
    out = attention()(*inputs)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), naive(*inputs, WHOLE), rtol=0.02, atol=0.02)


def test_windows_need_memory_in_proportion_to_the_sequence() -> None:
    """The largest mask made for 4,096 tokens and a window of 100 is one block's."""
    core, made = attention(window_size=(99, 0)), []
    sdpa = core._sdpa

    def recorded(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        made.append(mask.numel() if mask is not None else 0)
        return sdpa(q, k, v, mask)

    core._sdpa = recorded  # type: ignore[method-assign]
    core(torch.zeros(4096, 1, N, D), torch.zeros(4096, 1, G, D), torch.zeros(4096, 1, G, D))
    assert 0 < max(made) <= 512 * (512 + 99)


def test_the_future_is_hidden() -> None:
    """The gradient of the first s outputs with respect to later keys and values is exactly zero."""
    inputs = [draw(N), draw(G), draw(G, seed=9)]
    out = attention()(*inputs)
    for gradient in torch.autograd.grad(out[:6].sum(), inputs):
        assert not gradient[6:].any()
        assert gradient[:6].any()


def test_context_parallelism_is_refused() -> None:
    with pytest.raises(BackendUnavailableError, match="context_parallel_size"):
        attention(context_parallel_size=2)
