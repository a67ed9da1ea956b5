"""Attention in halves against one call in float64.

Shape legend: B batch, N query heads, G key/value heads, S tokens, D head dim.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from nemo_pi.model import cpu_causal
from nemo_pi.model.causal import attend_causally
from nemo_pi.model.cpu_causal import attend_in_halves, pays_off

B, N, D = 2, 4, 8
one_call = partial(scaled_dot_product_attention, enable_gqa=True)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_causal, "_BLOCK", 4)
    monkeypatch.setattr(cpu_causal, "_SHORTEST", 8)


def draw(length: int, groups: int = N) -> list[Tensor]:
    """Query, key and value as a fused projection leaves them: views of one [S, B, G, N/G + 2, D]."""
    generator = torch.Generator().manual_seed(length)
    mixed = 2 * torch.randn(length, B, groups, N // groups + 2, D, generator=generator)
    parts = mixed.split((N // groups, 1, 1), dim=3)
    return [part.flatten(2, 3).permute(1, 2, 0, 3).requires_grad_() for part in parts]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("groups", "scale"), [(N, None), (2, 0.3), (1, None)])
@pytest.mark.parametrize("length", [*range(1, 18), 31, 64, 100])
def test_equals_one_call(length: int, groups: int, scale: float | None) -> None:
    """Lengths of whole blocks and others, forward and backward, queries grouped or not."""
    inputs = draw(length, groups)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    out = attend_in_halves(*inputs, scale=scale)
    expected = one_call(*exact, is_causal=True, scale=scale)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    ours = torch.autograd.grad(out, inputs, upstream)
    theirs = torch.autograd.grad(expected, exact, upstream.double())
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our.double(), their, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("length", [5, 8, 13, 48])
def test_every_pair_that_is_seen_is_in_one_part(length: int) -> None:
    seen = torch.zeros(length, length, dtype=torch.int64)
    place = torch.arange(length).view(1, length, 1)
    for part in cpu_causal._parts(length):
        for queries, keys in zip(part.of_queries(place), part.of_keys(place), strict=True):
            for query in queries.flatten():
                visible = keys.flatten() if not part.causal else keys[keys <= query]
                seen[query, visible] += 1
    assert torch.equal(seen, torch.ones_like(seen).tril())


@pytest.mark.usefixtures("small_blocks")
def test_who_takes_part() -> None:
    q, k, v = draw(16)
    assert pays_off(q)
    assert not pays_off(q[:, :, :7]) and not pays_off(q.bfloat16()) and not pays_off(q.detach())
    out = attend_causally(q, k, v)
    assert "Halves" in out.grad_fn.name()  # type: ignore[union-attr]
    (grad,) = torch.autograd.grad(out.sum(), q)
    assert all(x.permute(2, 0, 1, 3).is_contiguous() for x in (out, grad))
