"""One small piece of each job, at a run's own shapes, for candidates to race on (kernels/race.py).

A trial is forward and backward where autograd is part of the job. Its size is bounded, so that all races of a
run together take a fraction of a second: rows are shortened, tokens and some outputs of large layers left
out.

Shape legend: S tokens of a row, D head dim, T tokens, H channels, O outputs of a linear layer, P rotary
pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nemo_pi.kernels.attention import SDPA, CausalAttention
from nemo_pi.kernels.capability import RotaryNeeds
from nemo_pi.kernels.needs import ActivationNeeds, AttentionNeeds, Needs, NormNeeds, ProductNeeds
from nemo_pi.kernels.products import TorchProducts
from nemo_pi.kernels.registry import Backend
from nemo_pi.kernels.rotary import RotaryKernel
from nemo_pi.kernels.softmax import TorchSoftmax

Trial = Callable[[], Tensor]
"""Does the work once; returns something of the result, for candidates to agree on."""
# Numbers of one tensor (2 MiB in fp32): more than the caches near a core hold, as in training.
_NUMBERS = 2**19
# Numbers that are drawn at random; a prime, so that no two rows are the same.
_FEW = 65521
# Floating-point operations of one trial for each thread: some 30 ms of attention, 10 ms of products.
_ATTENTION, _PRODUCTS = 2e9, 6e8
# Runs with rows of at least so many tokens try attention on rows of this length, whatever it takes (a quarter
# of a second, far less than a step of such a run): who is first on short rows may not be on long ones.
LONG_ROW = 2**13


def trial_of(job: str, candidate: Backend | RotaryKernel, needs: Needs | RotaryNeeds) -> Trial:
    """What a candidate does once in a race.

    Raises:
        TypeError: it is of a kind that cannot run by itself (a class of Megatron's).
    """
    if isinstance(candidate, RotaryKernel):
        assert isinstance(needs, RotaryNeeds)
        return _rotary(candidate, needs)
    loaded = candidate.load()
    if loaded is None or isinstance(loaded, type):
        raise TypeError(f"{candidate.name} runs within Megatron's layers only")
    makers: dict[str, Callable[[Any, Any], Trial]] = {
        "attention": _attention,
        "norm": _norm,
        "activation": _activation,
        "softmax": _softmax,
        "matmul": _products,
    }
    return makers[job](loaded, needs)


def _attention(backend: CausalAttention, needs: AttentionNeeds) -> Trial:
    shared = needs.heads // needs.groups
    groups = min(needs.groups, -(-torch.get_num_threads() // shared))  # a head for each thread, if there are
    heads, width = groups * shared, needs.width
    # A causal forward pass has 2·S²·D operations a head, a backward pass 2.5 times as many.
    budget = _ATTENTION * torch.get_num_threads() / (3.5 * 2 * width * heads)
    least = LONG_ROW if needs.tokens >= LONG_ROW else 512
    length = min(needs.tokens, max(least, int(math.sqrt(budget))))
    q, k, v = (_draw(length, 1, n, width).permute(1, 2, 0, 3) for n in (heads, groups, groups))
    upstream = _draw(length, 1, heads, width).permute(1, 2, 0, 3)
    leaves = [x.requires_grad_() for x in (q, k, v)]

    def run() -> Tensor:
        way = backend if backend.takes(q, k, v) else SDPA
        grads = torch.autograd.grad(way.attend(q, k, v, None), leaves, upstream)
        return grads[1]

    return run


def _norm(function: Callable[..., Tensor], needs: Needs) -> Trial:
    tokens = _tokens(needs.tokens, needs.width)
    x, weight = _draw(tokens, needs.width).requires_grad_(), _draw(needs.width).requires_grad_()
    upstream = _draw(tokens, needs.width)
    with_bias = isinstance(needs, NormNeeds) and needs.norm == "LayerNorm"
    bias = (_draw(needs.width).requires_grad_(),) if with_bias else ()
    return lambda: torch.autograd.grad(function(x, weight, 1e-5, *bias), (x, weight, *bias), upstream)[0]


def _activation(function: Callable[..., Tensor], needs: Needs) -> Trial:
    tokens = _tokens(needs.tokens, needs.width)
    gated = not isinstance(needs, ActivationNeeds) or needs.gated
    leaf = _draw(tokens, (2 if gated else 1) * needs.width).requires_grad_()
    upstream = _draw(tokens, needs.width)
    which: tuple[Any, ...] = ()
    if isinstance(needs, ActivationNeeds) and needs.kind != "gated silu":
        which = (needs.function, gated)

    def run() -> Tensor:
        # A layer's output, which a backend may write over; a leaf it may not.
        return torch.autograd.grad(function(leaf.view_as(leaf) * 1, *which), leaf, upstream)[0]

    return run


def _softmax(kernel: TorchSoftmax, needs: Needs) -> Trial:
    source = _draw(_tokens(needs.tokens, needs.width), needs.width)
    place, rows = torch.empty_like(source), torch.zeros(source.size(0), dtype=torch.int64)

    def run() -> Tensor:
        place.copy_(source)
        if kernel.takes(place):
            kernel.softmax_(place, rows)
            return place
        torch.log_softmax(place, dim=-1, out=place)
        place.gather(1, rows[:, None])
        return place.exp_()

    return run


def _products(products: TorchProducts, needs: ProductNeeds) -> Trial:
    # Of layers with billions of weights a part of the outputs will do.
    outputs = [min(width, max(64, 8 * _NUMBERS // needs.width)) for width in needs.outputs]
    each = 3 * 2 * needs.width * sum(outputs)  # forward, and the gradients of both factors
    tokens = max(64, min(needs.tokens, int(_PRODUCTS * torch.get_num_threads() / each)))
    tokens = min(tokens, needs.tokens)
    x_TH = _draw(tokens, needs.width)
    layers = [(_draw(width, needs.width), _draw(tokens, width)) for width in outputs]

    def run() -> Tensor:
        for weight_OH, grad_TO in layers:
            products.times_transposed(x_TH, weight_OH)
            products.times_transposed(grad_TO, weight_OH.t())
            last = products.transposed_times(grad_TO, x_TH)
        return last

    return run


def _rotary(kernel: RotaryKernel, needs: RotaryNeeds) -> Trial:
    tokens = _tokens(needs.tokens, needs.heads * needs.head_dim)
    pairs = (needs.head_dim if needs.rotary_dim is None else needs.rotary_dim) // 2
    angle_T1P = 100 * _draw(tokens, 1, pairs).float()
    cos, sin = angle_T1P.cos(), angle_T1P.sin()
    shape = (tokens, needs.heads, needs.head_dim)
    q, k = (_draw(*shape).to(needs.dtype).requires_grad_() for _ in range(2))
    upstream = _draw(*shape).to(needs.dtype)

    def run() -> Tensor:
        turned = kernel(q, k, cos, sin, needs.interleaved)
        return torch.autograd.grad(turned, (q, k), (upstream, upstream))[0]

    return run


def _tokens(tokens: int, width: int) -> int:
    return max(1, min(tokens, _NUMBERS // width))


def _draw(*shape: int) -> Tensor:
    """Random numbers, the same few over and over: drawing millions takes longer than a race."""
    few = torch.randn(_FEW, generator=torch.Generator().manual_seed(len(shape)))
    numbers = math.prod(shape)
    return few.repeat(-(-numbers // _FEW))[:numbers].view(shape)
