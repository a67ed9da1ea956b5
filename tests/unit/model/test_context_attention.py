"""Attention over split rows, on gloo ranks, against one rank's in float64; and what it keeps.

Shape legend: S sequence, B batch, N query heads, G key/value heads, D head dim.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from nemo_pi.kernels.attention import NATIVE
from nemo_pi.model import context_attention
from nemo_pi.model import span_attention as span_attention
from nemo_pi.model.causal import attend_causally
from nemo_pi.model.context_attention import SplitRows, attend_split_rows, heads_at_once
from nemo_pi.model.span_attention import Merged, Recomputed, SpanAttention
from nemo_pi.parallel.context import split_rows
from tests.unit.checkpoint.models import run_ranks
from tests.unit.model.naive import naive_attention

S, B, N, G, D = 16, 2, 4, 2, 8
Rows = tuple[tuple[int, ...], ...]

WHOLE: Rows = ((0, S), (0, S))
ANY_LENGTH: Rows = ((0, 3, 4, 9, S), (0, 15, S))
BY_THEMSELVES: Rows = ((0, 8, S), (0, 8, S))  # 8 is a multiple of twice four ranks
EITHER: Rows = ((0, 5, S), (0, 8, S))

# documents, window, bytes of keys and values gathered at once (1: one head after another)
CASES: tuple[tuple[Rows, int | None, int], ...] = (
    (WHOLE, None, 2**20),
    (WHOLE, 6, 2**20),
    (ANY_LENGTH, None, 2**20),
    (ANY_LENGTH, 1, 2**20),
    (BY_THEMSELVES, None, 2**20),
    (EITHER, 6, 1),
)


def draw(heads: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(S, B, heads, D, generator=generator)).requires_grad_()


def ways(window: int | None) -> list[SpanAttention]:
    again = Recomputed(partial(attend_causally, lookback=None if window is None else window - 1))
    return [again] if window else [again, Merged(), Merged(backend=NATIVE)]


def compare(group: dist.ProcessGroup, boundaries: Rows, window: int | None, attention: SpanAttention) -> None:
    """Output and gradients of this rank's shard against the same places of the whole row's."""
    split = split_rows(boundaries, dist.get_world_size(group), dist.get_rank(group))

    def share(x_SB: Tensor) -> Tensor:
        return torch.stack([split.take(x_SB[..., i].T).T for i in range(x_SB.size(-1))], dim=-1)

    whole = [draw(N, 0), draw(G, 1), draw(G, 2)]
    upstream = torch.randn(S, B, N * D, generator=torch.Generator().manual_seed(3))
    expected = naive_attention(*whole, boundaries, window)
    expected_gradients = torch.autograd.grad(expected, whole, upstream.double())

    mine = [share(x.detach().flatten(2)).unflatten(2, x.shape[2:]).requires_grad_() for x in whole]
    out = attend_split_rows(*mine, SplitRows(split, group, attention)).flatten(2)
    torch.testing.assert_close(out.double(), share(expected), rtol=1e-5, atol=1e-5)
    for our, their in zip(torch.autograd.grad(out, mine, share(upstream)), expected_gradients, strict=True):
        torch.testing.assert_close(our.flatten(2), share(their.flatten(2)), rtol=1e-4, atol=1e-5)


def on_four_ranks() -> None:
    pairs = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    for group in (pairs[dist.get_rank() // 2], dist.group.WORLD):
        assert group is not None
        for boundaries, window, bytes_at_once in CASES:
            context_attention._GATHERED_BYTES = bytes_at_once
            span_attention._BLOCK_QUERIES = 3
            for attention in ways(window):
                compare(group, boundaries, window, attention)


def test_equals_one_rank(tmp_path: Path) -> None:
    """Two and four ranks, whole rows and documents, windows, forward and backward."""
    run_ranks(tmp_path, on_four_ranks, world=4)


def test_a_rank_keeps_only_its_share(one_rank: None) -> None:
    """Nothing of the whole row's size stays for the backward pass: no gathered keys, no masks."""
    q, k = S * B * N * D, S * B * G * D
    log_sum_exp = S * N
    assert kept_by(Recomputed(attend_causally)) == sorted([q, k, k])
    assert kept_by(Merged()) == sorted([q, k, k, q, *[log_sum_exp] * B])


def kept_by(attention: SpanAttention) -> list[int]:
    """Sizes of the tensors that a forward pass leaves."""
    kept: list[int] = []

    def pack(x: Tensor) -> Tensor:
        kept.append(x.numel())
        return x

    group = dist.group.WORLD
    assert group is not None
    inputs = [draw(N, 0), draw(G, 1), draw(G, 2)]
    rows = SplitRows(split_rows(((0, S), (0, S)), 1, 0), group, attention)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        attend_split_rows(*inputs, rows)
    return sorted(kept)


def test_what_is_gathered_at_once_counts_every_rank_s_part() -> None:
    """8 heads of 32,768 tokens on each of 8 ranks: two of them are 256 MiB, all would be a GiB."""
    k_LBGD = torch.empty(32_768, 1, 8, 128, dtype=torch.bfloat16, device="meta")
    for ranks, heads in ((1, 8), (2, 8), (4, 4), (8, 2), (16, 1), (64, 1)):
        assert heads_at_once(k_LBGD, ranks) == heads
    assert heads_at_once(torch.empty(32_768, 2, 8, 128, dtype=torch.bfloat16, device="meta"), 8) == 1
    assert heads_at_once(torch.empty(32_768, 1, 8, 128, device="meta"), 8) == 1, "fp32"
