"""The compiled attention under autograd, and who is given to it.

Shape legend: B batch, N query heads, S tokens, D head dim.
"""

from __future__ import annotations

import pytest
import torch

from nemo_pi.kernels.attention import NATIVE, SDPA
from nemo_pi.kernels.native import obstacle
from nemo_pi.model.causal import attend_causally
from nemo_pi.model.span_attention import Merged
from tests.unit.kernels.causal_inputs import N, check_against_one_call, draw

pytestmark = pytest.mark.skipif(obstacle() is not None, reason=f"native: {obstacle()}")


@pytest.mark.parametrize(("groups", "scale"), [(N, None), (2, 0.3), (1, None)])
@pytest.mark.parametrize("length", [1, 31, 48, 100, 200])
def test_equals_one_call(length: int, groups: int, scale: float | None) -> None:
    check_against_one_call(NATIVE.attend, length, groups, scale, width=16)


def test_who_takes_part() -> None:
    q, k, v = draw(20, width=16)
    assert NATIVE.takes(q, k, v)
    assert not NATIVE.takes(q[:, :, :15], k, v) and not NATIVE.takes(*(x.bfloat16() for x in (q, k, v)))
    out = attend_causally(q, k, v, backend=NATIVE)
    assert "Attend" in out.grad_fn.name()  # type: ignore[union-attr]
    (grad,) = torch.autograd.grad(out.sum(), q)
    assert all(x.permute(2, 0, 1, 3).is_contiguous() for x in (out, grad))
    assert "Attend" not in attend_causally(q, k, v).grad_fn.name()  # type: ignore[union-attr]


def test_pieces_of_a_row() -> None:
    """As context-parallel ranks attend: the last 40 of 90 tokens, keys before them and their own apart."""
    q, k, v = (x[:1].detach() for x in draw(90, width=32))
    qkv, upstream = (q[:, :, 50:], k, v), torch.randn(1, N, 40, 32)
    results = []
    for merged in (Merged(backend=NATIVE), Merged(backend=SDPA)):
        result = merged.attend(qkv)
        sums = [torch.zeros_like(x) for x in qkv]
        for share in merged.gradients(upstream, qkv, result):
            sums[0][:, :, share.queries] += share.dq
            sums[1][:, :, share.keys] += share.dk
            sums[2][:, :, share.keys] += share.dv
        results.append((*result, *sums))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
