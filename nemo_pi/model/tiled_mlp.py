"""Megatron's MLP over slices of the tokens, so that its hidden layer never exists for all of them.

An MLP treats every token by itself. Forward, slices are computed one after the other and nothing of them is
kept; backward, each is computed again and differentiated, and the weights' gradients add up in fp32 (TiledMLP
of arXiv 2506.13996). Autograd sees one operation: each weight gets its gradient once, so Megatron's DDP,
which hears of gradients as they arrive, need not know of slices.

Shape legend: S sequence (this rank's part of it under sequence parallelism), B batch, N = S·B, n tokens of a
slice, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from megatron.core.tensor_parallel import random as megatron_random
from megatron.core.transformer.mlp import MLP
from megatron.core.transformer.spec_utils import ModuleSpec
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import Parameter

from nemo_pi.model.vocab_parallel import accumulator_dtype

Compute = Callable[[Tensor], Tensor]
"""A slice [n, 1, H] to the MLP's output [n, 1, H]."""


class TiledMLP(MLP):
    """Megatron's MLP, computed over slices of its tokens wherever there are more than one slice holds.

    Args:
        args, kwargs: Megatron's.
        chunk_tokens: tokens of a slice, as this rank's matrices see them: under sequence parallelism they are
            gathered from all tensor-parallel ranks.

    Attributes:
        output_is_unread: whether the next outputs are wanted for their gradients alone; they are then no
            numbers in particular.
    """

    def __init__(self, *args: Any, chunk_tokens: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        ranks = self.tp_group.size() if self.config.sequence_parallel else 1
        self._rows = max(1, chunk_tokens // ranks)
        # In a list: as an attribute a parameter would be one of this module's.
        self._bias: list[Tensor | None] = [None]
        self.output_is_unread = False

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """As Megatron's: output [S, B, H] of hidden_states [S, B, H], and a bias."""
        if hidden_states.shape[:-1].numel() <= self._rows:
            output, bias = super().forward(hidden_states, *args, **kwargs)
            return output, bias
        rows_N1H = hidden_states.flatten(0, -2).unsqueeze(1)
        weights = [weight for weight in self.parameters() if weight.requires_grad]
        # Adapters may drop channels; what is computed again must drop the same ones.
        generators = megatron_random._get_all_rng_states() if torch.is_grad_enabled() else ()
        compute = partial(self._slice, super().forward)
        output_N1H = _Tiled.apply(rows_N1H, compute, self._rows, self.output_is_unread, generators, *weights)
        # A parameter as it is, which gets its gradient where it is added.
        return output_N1H.view_as(hidden_states), self._bias[0]

    def _slice(self, forward: Any, part_n1H: Tensor) -> Tensor:
        output_n1H: Tensor
        output_n1H, self._bias[0] = forward(part_n1H)
        return output_n1H


def tiled(mlp: ModuleSpec, chunk_tokens: int) -> type[TiledMLP]:
    """The MLP of a spec, tiled.

    A class rather than another spec: Megatron's layer hands arguments to specs of the MLPs it knows by name,
    and warns of all others.
    """

    class Tiled(TiledMLP):
        def __init__(self, config: Any) -> None:
            super().__init__(config, mlp.submodules, chunk_tokens=chunk_tokens, **mlp.params)

    return Tiled


class _Tiled(torch.autograd.Function):
    """Keeps its input alone."""

    @staticmethod
    def forward(
        ctx: Any,
        rows_N1H: Tensor,
        compute: Compute,
        size: int,
        unread: bool,
        generators: tuple[Any, ...],
        *weights: Parameter,
    ) -> Tensor:
        ctx.save_for_backward(rows_N1H)
        # Not saved as tensors: hooks that move those elsewhere would move weights.
        ctx.compute, ctx.size, ctx.generators, ctx.weights = compute, size, generators, weights
        output_N1H = torch.empty_like(rows_N1H)
        for tile in () if unread else _tiles(rows_N1H.size(0), size):
            output_N1H[tile] = compute(rows_N1H[tile])
        return output_N1H

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N1H: Tensor) -> tuple[Tensor | None, ...]:
        (rows_N1H,), weights = ctx.saved_tensors, ctx.weights
        wants_rows = ctx.needs_input_grad[0]
        grad_rows_N1H = torch.empty_like(rows_N1H) if wants_rows else None
        sums = _Sums(weights)
        with megatron_random._fork_rng():
            megatron_random._set_all_rng_states(*ctx.generators)
            for tile in _tiles(rows_N1H.size(0), ctx.size):
                part_n1H = rows_N1H[tile].detach().requires_grad_(wants_rows)
                with torch.enable_grad():
                    output_n1H = ctx.compute(part_n1H)
                wanted = (part_n1H, *weights) if wants_rows else weights
                # Neither .backward() nor its hooks, which would count a weight's gradient once a slice.
                found = torch.autograd.grad(output_n1H, wanted, grad_N1H[tile], allow_unused=True)
                if grad_rows_N1H is not None:
                    grad_rows_N1H[tile] = found[0]
                sums.add(found[int(wants_rows) :])
        return grad_rows_N1H, None, None, None, None, *sums.gradients()


class _Sums:
    """Gradients of weights, added up over slices in fp32 and rounded once."""

    def __init__(self, weights: Sequence[Parameter]) -> None:
        self._weights = weights
        self._sums: list[Tensor | None] = [None] * len(weights)

    def add(self, gradients: Sequence[Tensor | None]) -> None:
        """Those of one slice."""
        for number, (weight, gradient) in enumerate(zip(self._weights, gradients, strict=True)):
            if gradient is None:
                continue
            if getattr(weight, "grad_added_to_main_grad", False):
                # gradient_accumulation_fusion has added it where it belongs; this is an empty stand-in.
                self._sums[number] = gradient
                continue
            total = self._sums[number]
            if total is None:
                total = torch.zeros_like(weight, dtype=accumulator_dtype(weight))
                self._sums[number] = total
            total += gradient

    def gradients(self) -> list[Tensor | None]:
        """In the weights' dtype."""
        pairs = zip(self._sums, self._weights, strict=True)
        return [None if total is None else total.to(weight.dtype) for total, weight in pairs]


def _tiles(length: int, size: int) -> Iterator[slice]:
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))
