"""The last queries of a chunk against attention written out in float64.

Shape legend: B batch, N query heads, G key/value heads, Q queries, K keys, D head dim.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from nemo_pi.model import causal
from nemo_pi.model.causal import attend_causally
from tests.unit.model.naive import naive_attention

B, N, G, K, D = 2, 4, 2, 13, 8


def draw(heads: int, tokens: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + heads)
    return (2 * torch.randn(B, heads, tokens, D, generator=generator)).requires_grad_()


@pytest.mark.parametrize("queries", [1, 4, 9, K])
@pytest.mark.parametrize("window", [None, 1, 3, 6, K, 50])
def test_equals_naive_softmax(queries: int, window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward, and backward through a random projection, in several blocks."""
    monkeypatch.setattr(causal, "_SMALLEST_BLOCK", 4)
    inputs = [draw(N, K), draw(G, K), draw(G, K, seed=9)]
    lookback = None if window is None else window - 1
    out = attend_causally(inputs[0][:, :, K - queries :], *inputs[1:], lookback=lookback)
    whole = naive_attention(*(x.permute(2, 0, 1, 3) for x in inputs), window=window)
    expected = whole.unflatten(2, (N, D)).permute(1, 2, 0, 3)[:, :, K - queries :]
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
    ours = torch.autograd.grad(out, inputs, upstream)
    theirs = torch.autograd.grad(expected, inputs, upstream.double())
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-4, atol=1e-5)


def test_flash_attentions_alignment_is_ours() -> None:
    """What a GPU is asked for in 16 bits: torch's lower-right mask, here through its mask tensor."""
    q, k, v = draw(N, 5), draw(N, K), draw(N, K, seed=9)
    theirs = scaled_dot_product_attention(q, k, v, attn_mask=causal_lower_right(5, K))
    torch.testing.assert_close(attend_causally(q, k, v), theirs)


@pytest.mark.parametrize(("queries", "lookback"), [(4096, 99), (1024, None)])
def test_masks_grow_with_the_sequence_not_with_its_square(
    queries: int, lookback: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 4,096 tokens: a window of 100, and the last quarter's queries."""
    made, sdpa = [], causal._sdpa

    def recorded(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
        made.append(mask.numel() if mask is not None else 0)
        return sdpa(q, k, v, mask, scale)

    monkeypatch.setattr(causal, "_sdpa", recorded)
    attend_causally(
        torch.zeros(1, 2, queries, 4), *torch.zeros(2, 1, 2, 4096, 4).unbind(0), lookback=lookback
    )
    assert 0 < max(made) <= 512 * (4096 if lookback is None else 512 + 99)
