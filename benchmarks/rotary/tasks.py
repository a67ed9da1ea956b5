"""The two jobs that are timed, forward and backward, and how many bytes each has to move.

Shapes: B rows, S tokens, G key heads, R query heads for each, N = G·R, D channels, F = D / 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nemo_pi.rope.spec import ContextExtension
from nemo_pi.rope.tables import rotary_cos_sin

Rotate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""q [B, S, N, D] and k [B, S, G, D] to the same rotated."""


@dataclass(frozen=True)
class Shape:
    """Attention heads of a model."""

    name: str
    q_heads: int
    k_heads: int
    head_dim: int
    base: float


SHAPES = {
    "llama-7b": Shape("llama-7b", 32, 32, 128, 10_000.0),
    "llama-3-8b": Shape("llama-3-8b", 32, 8, 128, 500_000.0),
}


@dataclass(frozen=True)
class Inputs:
    """One row of tokens, with the tables in the forms that libraries take."""

    shape: Shape
    tokens: int
    device: str
    dtype: torch.dtype

    def angles(self) -> tuple[Tensor, Tensor]:
        """Cosines and sines, fp32 [1, S, F]."""
        spec = ContextExtension.unscaled(self.tokens, self.shape.head_dim, base=self.shape.base)
        return rotary_cos_sin(spec, torch.arange(self.tokens, device=self.device)[None])

    def random(self, *shape: int) -> Tensor:
        """Normal numbers on the device."""
        generator = torch.Generator(self.device).manual_seed(sum(shape))
        return torch.randn(shape, device=self.device, generator=generator).to(self.dtype)

    def heads(self, number: int) -> Tensor:
        """Random heads [1, S, number, D]."""
        return self.random(1, self.tokens, number, self.shape.head_dim)

    @property
    def query_key_bytes(self) -> int:
        """Bytes of q and k together."""
        heads = self.shape.q_heads + self.shape.k_heads
        return self.tokens * heads * self.shape.head_dim * torch.finfo(self.dtype).bits // 8


@dataclass(frozen=True)
class Task:
    """A job: its name, and how often it reads or writes as many bytes as q and k have."""

    name: str
    moves: float
    work: Callable[[Rotate], object]

    def once(self, rotate: Rotate) -> Callable[[], object]:
        """The whole of it by one contestant."""
        return lambda: self.work(rotate)


def separate(inputs: Inputs) -> Task:
    """q and k by themselves: read and written forward, read and written backward."""
    shape = inputs.shape
    q, k = (inputs.heads(number).requires_grad_() for number in (shape.q_heads, shape.k_heads))
    above = inputs.heads(shape.q_heads), inputs.heads(shape.k_heads)
    return Task("q and k", 4.0, lambda rotate: torch.autograd.grad(rotate(q, k), (q, k), above))


def in_projection(inputs: Inputs) -> Task:
    """q and k as the fused projection leaves them, and back to the gradient of its output, v included."""
    shape = inputs.shape
    per_group = shape.q_heads // shape.k_heads
    leaf = inputs.random(1, inputs.tokens, shape.k_heads, (per_group + 2) * shape.head_dim).requires_grad_()
    above = tuple(inputs.heads(number) for number in (shape.q_heads, shape.k_heads, shape.k_heads))

    def work(rotate: Rotate) -> object:
        return torch.autograd.grad(split_and_rotate(rotate, leaf, shape), leaf, above)

    extra = 2 * shape.k_heads / (shape.q_heads + shape.k_heads)
    return Task("in the projection", 4.0 + extra, work)


def split_and_rotate(rotate: Rotate, leaf: Tensor, shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """As a model does it: split, bring q's heads onto one axis, rotate. A contestant may offer more."""
    mixed = leaf.view_as(leaf)  # the output of a projection is no leaf
    fused = getattr(rotate, "fused", None)
    if fused is not None:
        split: tuple[Tensor, Tensor, Tensor] = fused(mixed)
        return split
    heads = mixed.unflatten(-1, (-1, shape.head_dim))
    q, k, v = heads[..., :-2, :].flatten(2, 3), heads[..., -2, :], heads[..., -1, :]
    return *rotate(q, k), v
