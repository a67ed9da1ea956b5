"""The compiled attention against attention written out in float64.

Shape legend: B batch, N query heads, G key/value heads, Q queries, K keys, D head dim.
"""

from __future__ import annotations

import ctypes

import pytest
import torch
from torch import Tensor

from nemo_pi.kernels import native_attention
from nemo_pi.kernels.native import WIDE, library, obstacle

pytestmark = pytest.mark.skipif(obstacle() is not None, reason=f"native: {obstacle()}")


@pytest.fixture(params=[1, 2, 3], ids=lambda threads: f"{threads}-threads", autouse=True)
def threads(request: pytest.FixtureRequest) -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def draw(rows: int, heads: int, tokens: int, width: int, size: float = 2.0) -> Tensor:
    """[B, heads, tokens, D] as it lies in a projection's output."""
    return (size * torch.randn(tokens, rows, heads, width)).permute(1, 2, 0, 3)


def exactly(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp in float64."""
    shared = q.size(1) // k.size(1)
    k, v = (x.repeat_interleave(shared, dim=1) for x in (k, v))
    score = scale * q @ k.transpose(2, 3)
    if causal:
        queries, keys = score.shape[2:]
        hidden = torch.ones(queries, keys, dtype=torch.bool).triu(keys - queries + 1)
        score = score.masked_fill(hidden, -torch.inf)
    return score.softmax(dim=-1) @ v, score.logsumexp(dim=-1)


@pytest.mark.parametrize(
    ("rows", "heads", "groups", "queries", "keys", "width", "causal", "scale"),
    [
        (1, 1, 1, 1, 1, 16, True, None),
        (2, 3, 3, 47, 47, 32, True, None),
        (1, 2, 2, 48, 48, 64, True, 0.3),
        (1, 4, 2, 49, 49, 16, True, None),
        (1, 1, 1, 193, 193, 16, True, None),  # one query in a band of its own
        (1, 1, 1, 400, 400, 128, True, None),  # one head for several threads
        (3, 6, 2, 100, 100, 48, True, 0.05),
        (1, 2, 1, 33, 150, 256, True, None),  # the last queries of a longer chunk
        (1, 2, 2, 5, 300, 80, True, None),
        (1, 4, 2, 70, 30, 64, False, None),  # all keys, fewer than queries
        (2, 2, 2, 16, 97, 96, False, 0.2),
    ],
)
def test_equals_float64(
    rows: int, heads: int, groups: int, queries: int, keys: int, width: int, causal: bool, scale: float | None
) -> None:
    torch.manual_seed(queries + keys)
    q = draw(rows, heads, queries, width)
    k, v = draw(rows, groups, keys, width), draw(rows, groups, keys, width)
    upstream = draw(rows, heads, queries, width, 1.0)
    exact = [x.double().requires_grad_() for x in (q, k, v)]
    out, lse = native_attention.attend(q, k, v, causal=causal, scale=scale)
    right, right_lse = exactly(*exact, causal, scale or width**-0.5)
    torch.testing.assert_close(out.double(), right, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(lse.double(), right_lse, rtol=1e-6, atol=1e-5)
    given = native_attention.gradients(upstream, q, k, v, out, lse, causal=causal, scale=scale)
    for ours, theirs in zip(given, torch.autograd.grad(right, exact, upstream.double()), strict=True):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-4)


def test_scores_of_any_size() -> None:
    """Differences of thousands, where all but one probability is 0, overflow nothing."""
    q, k, v = (draw(1, 2, 130, 64, 40.0) for _ in range(3))
    out, lse = native_attention.attend(q, k, v, causal=True)
    right, right_lse = exactly(q.double(), k.double(), v.double(), True, 0.125)
    torch.testing.assert_close(lse.double(), right_lse, rtol=1e-5, atol=0.0)
    # fp32 scores near 10⁴ are known to a thousandth, and so are probabilities relative to each other.
    torch.testing.assert_close(out.double(), right, rtol=1e-2, atol=0.5)


def test_hidden_keys_do_not_matter_at_all() -> None:
    """Not even infinite ones: what is hidden is never multiplied with."""
    q, k, v = (draw(1, 2, 100, 32) for _ in range(3))
    before, _ = native_attention.attend(q, k, v, causal=True)
    k[:, :, 60:], v[:, :, 60:] = 1e30, torch.inf
    after, _ = native_attention.attend(q, k, v, causal=True)
    assert torch.equal(before[:, :, :48], after[:, :, :48])  # whole blocks are left out


@pytest.mark.parametrize("where", range(3))
def test_what_is_no_number_stays_none(where: int) -> None:
    """In query, key or value, whether or not the softmax could hide it: runs stop at it by name."""
    qkv = [draw(1, 2, 100, 32) for _ in range(3)]
    qkv[where][0, 1, 50, 7] = torch.nan
    out, lse = native_attention.attend(*qkv, causal=True)
    assert out[0, 1, 50].isnan().all() if where < 2 else out[0, 1, 50, 7].isnan()
    gradients = native_attention.gradients(torch.ones_like(out), *qkv, out, lse, causal=True)
    assert all(x[0, 1].isnan().any() and not x[0, 0].isnan().any() for x in gradients[:2])


def test_the_same_in_every_run() -> None:
    """Which thread takes which part changes nothing."""
    q, k, v, upstream = (draw(1, 1, 700, 64) for _ in range(4))
    results = []
    for _ in range(5):
        out, lse = native_attention.attend(q, k, v, causal=True)
        gradients = native_attention.gradients(upstream, q, k, v, out, lse, causal=True)
        results.append((out, lse, *gradients))
    for again in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(results[0], again, strict=True))


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512", reason="compares AVX-512 with AVX2: needs both"
)
@pytest.mark.parametrize("width", [16, 32, 48, 64, 80, 96, 112, 128])
def test_wider_registers_change_no_bit(width: int) -> None:
    """Each sum adds the same products in the same order, however many are computed at once."""
    q, k, v = draw(1, 4, 131, width), draw(1, 2, 131, width), draw(1, 2, 131, width)
    upstream = torch.randn_like(q)
    wide = ctypes.c_int.in_dll(library(), WIDE)
    results = []
    for value in (1, 0):
        wide.value = value
        try:
            out, lse = native_attention.attend(q, k, v, causal=True, scale=0.2)
            grads = native_attention.gradients(upstream, q, k, v, out, lse, causal=True, scale=0.2)
        finally:
            wide.value = 1
        results.append((out, lse, *grads))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_any_strides() -> None:
    """Channels that lie apart, expanded upstream gradients, rows in reverse memory order."""
    q, k, v = (torch.randn(2, 2, 32, 50).transpose(2, 3) for _ in range(3))
    upstream = torch.randn(2, 1, 50, 1).expand(2, 2, 50, 32)
    given = native_attention.attend(q, k, v, causal=True)
    copies = [x.contiguous() for x in (q, k, v)]
    expected = native_attention.attend(*copies, causal=True)
    assert all(torch.equal(one, other) for one, other in zip(given, expected, strict=True))
    ours = native_attention.gradients(upstream, q, k, v, *given, causal=True)
    theirs = native_attention.gradients(upstream.clone(), *copies, *expected, causal=True)
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_results_lie_as_the_layers_want_them() -> None:
    q, k, v = draw(2, 4, 64, 16), draw(2, 2, 64, 16), draw(2, 2, 64, 16)
    out, lse = native_attention.attend(q, k, v, causal=True)
    gradients = native_attention.gradients(q, q, k, v, out, lse, causal=True)
    # With fewer key heads than threads they are sums over parts, which lie as they come.
    for x in (out, gradients[0]):
        assert x.permute(2, 0, 1, 3).is_contiguous()


def test_what_it_takes() -> None:
    x = draw(1, 2, 5, 32)
    assert native_attention.takes(x, x, x)
    for odd in (x.double(), x.bfloat16(), x[..., :24], draw(1, 2, 5, 272), x[:, :, :0]):
        assert not native_attention.takes(odd, odd, odd)
    assert not native_attention.takes(x, x, x[..., :16])
