"""Attention in halves against one call in float64.

Shape legend: B batch, N query heads, G key/value heads, S tokens, D head dim.
"""

from __future__ import annotations

import pytest
import torch

from nemo_pi.model import cpu_causal
from nemo_pi.model.causal import attend_causally
from nemo_pi.model.cpu_causal import attend_in_halves, pays_off
from tests.unit.model.causal_inputs import N, check_against_one_call, draw


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_causal, "_BLOCK", 4)
    monkeypatch.setattr(cpu_causal, "_SHORTEST", 8)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("groups", "scale"), [(N, None), (2, 0.3), (1, None)])
@pytest.mark.parametrize("length", [*range(1, 18), 31, 64, 100])
def test_equals_one_call(length: int, groups: int, scale: float | None) -> None:
    """Lengths of whole blocks and others, forward and backward, queries grouped or not."""
    check_against_one_call(attend_in_halves, length, groups, scale)


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
