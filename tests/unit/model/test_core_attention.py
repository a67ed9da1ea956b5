"""Core attention against a softmax written out in float64, and documents against themselves alone.

Shape legend: S sequence, B batch, N query heads, G key/value heads, D head dim.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from nemo_pi.model import causal
from nemo_pi.model.core_attention import DocumentBoundaries, SdpaCoreAttention
from tests.unit.model.naive import naive_attention

S, B, N, G, D = 13, 2, 4, 2, 8


def attention(scale: float | None = None, **changes: Any) -> SdpaCoreAttention:
    config = TransformerConfig(num_layers=1, hidden_size=N * D, num_attention_heads=N, **changes)
    return SdpaCoreAttention(config, 1, AttnMaskType.causal, "self", softmax_scale=scale)


def draw(heads: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + heads)
    return (2 * torch.randn(S, B, heads, D, generator=generator)).to(dtype).requires_grad_()


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
    monkeypatch.setattr(causal, "_SMALLEST_BLOCK", 4)
    core = attention(window_size=None if window is None else (window - 1, 0))
    inputs = [draw(N), draw(heads), draw(heads, seed=9)]
    packed = None if starts is None else DocumentBoundaries(starts)
    out = core(*inputs, packed_seq_params=packed)
    expected = naive_attention(*inputs, starts, window)
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
    torch.testing.assert_close(out.double(), naive_attention(*inputs, scale=0.05), rtol=1e-5, atol=1e-5)


def test_keeps_bf16() -> None:
    inputs = [draw(heads, torch.bfloat16) for heads in (N, G, G)]
    out = attention()(*inputs)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), naive_attention(*inputs), rtol=0.02, atol=0.02)


def test_the_future_is_hidden() -> None:
    """The gradient of the first s outputs with respect to later keys and values is exactly zero."""
    inputs = [draw(N), draw(G), draw(G, seed=9)]
    out = attention()(*inputs)
    for gradient in torch.autograd.grad(out[:6].sum(), inputs):
        assert not gradient[6:].any()
        assert gradient[:6].any()
