"""LongLoRA's attention in groups against a loop over queries, and against its authors' rolling of rows.

Shape legend: B batch, N query heads, G key heads, S tokens, D head dim.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nemo_pi.kernels.shifted_attention import ShiftedAttention

S, GROUP = 24, 8


def inputs(heads: int, groups: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((2, heads, S, 16), (2, groups, S, 16), (2, groups, S, 16))
    return tuple(torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes)


def by_hand(q: Tensor, k: Tensor, v: Tensor, group: int, shifted_from: int, scale: float) -> Tensor:
    """Every query of every head by itself: the keys of its group that do not come later."""
    shared = q.size(1) // k.size(1)
    out = []
    for head in range(q.size(1)):
        shift = group // 2 if head >= shifted_from else 0
        keys, values = k[:, head // shared], v[:, head // shared]
        for i in range(q.size(2)):
            first = max(0, (i + shift) // group * group - shift)
            scores = (q[:, head, i, None] * keys[:, first : i + 1]).sum(-1) * scale
            out.append((scores.softmax(-1)[..., None] * values[:, first : i + 1]).sum(1))
    return torch.stack(out, dim=1).unflatten(1, (q.size(1), -1))


def rolled(q: Tensor, k: Tensor, v: Tensor, group: int) -> Tensor:
    """As the authors' code has it: half of the heads rolled by half a group, cut, attended, rolled back."""
    shared, heads = q.size(1) // k.size(1), q.size(1)
    late = slice(heads // 2, None)

    def cut(x_BNSD: Tensor) -> Tensor:
        x_BNSD = x_BNSD.clone()
        x_BNSD[:, late] = x_BNSD[:, late].roll(-(group // 2), dims=2)
        return x_BNSD.unflatten(2, (-1, group)).transpose(1, 2)  # [B, groups, N, group, D]

    q, k, v = (cut(x) for x in (q, k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)))
    scores = q @ k.transpose(-1, -2) / q.size(-1) ** 0.5
    hidden = torch.full((group, group), float("-inf")).triu(1)
    out = ((scores + hidden).softmax(-1) @ v).transpose(1, 2).flatten(2, 3)
    out[:, late] = out[:, late].roll(group // 2, dims=2)
    return out


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2), (6, 2), (4, 1), (2, 1)])
@pytest.mark.parametrize("scale", [None, 0.4])
def test_equals_a_loop_forward_and_backward(heads: int, groups: int, scale: float | None) -> None:
    q, k, v = inputs(heads, groups)
    attention = ShiftedAttention(GROUP)
    assert attention.takes(q, k, v)
    out = attention.attend(q, k, v, scale)
    expected = by_hand(q, k, v, GROUP, heads // 2, 0.25 if scale is None else scale)
    assert (out - expected).abs().max() < 1e-5
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    found, wanted = (torch.autograd.grad(x, (q, k, v), upstream) for x in (out, expected))
    assert all((a - b).abs().max() < 1e-5 for a, b in zip(found, wanted, strict=True))


@torch.no_grad()
def test_equals_the_authors_code_but_for_what_sees_the_future() -> None:
    q, k, v = inputs(4, 2)
    ours, theirs = ShiftedAttention(GROUP).attend(q, k, v, None), rolled(q, k, v, GROUP)
    differs = (ours - theirs).abs().amax(dim=(0, 3)) > 1e-6
    wrapped = torch.zeros(4, S, dtype=torch.bool)
    wrapped[2:, : GROUP // 2] = True  # the first half group of the shifted heads
    assert torch.equal(differs, wrapped)


@torch.no_grad()
def test_no_token_sees_a_later_one() -> None:
    q, k, v = inputs(4, 2)
    before = ShiftedAttention(GROUP).attend(q, k, v, None)
    k[:, :, 13:], v[:, :, 13:] = 1e3, 1e3
    assert torch.equal(ShiftedAttention(GROUP).attend(q, k, v, None)[:, :, :13], before[:, :, :13])


@torch.no_grad()
def test_ranks_shift_the_heads_that_one_rank_does() -> None:
    q, k, v = inputs(4, 2)
    whole = ShiftedAttention(GROUP).attend(q, k, v, None)
    parts = [
        ShiftedAttention(GROUP)
        .of_heads(2 * rank, 2, 4)
        .attend(*(x.chunk(2, 1)[rank] for x in (q, k, v)), None)
        for rank in range(2)
    ]
    assert (torch.cat(parts, dim=1) - whole).abs().max() < 1e-6


def test_takes_rows_of_whole_groups_only() -> None:
    q, k, v = inputs(4, 2)
    assert not ShiftedAttention(7).takes(q, k, v)
    assert not ShiftedAttention(GROUP).takes(q[:, :, :8], k, v)
    assert ShiftedAttention().takes(q, k, v)  # a quarter of 24
