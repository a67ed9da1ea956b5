"""Activations that wait for their backward pass: the chain that brings them back in time; what a store is.

What is put away comes back bit for bit. Whoever takes something starts the way back of what was put away
before it, which the backward pass wants next. Several micro-batches may be in flight: each forward pass of a
model chunk is a chain of its own. The stores are in activation_places.py.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Held(Protocol):
    """Tensors that were put away together."""

    def fetch(self) -> None:
        """Begins to bring them back; waits for nothing."""

    def get(self) -> list[Tensor]:
        """The tensors as they were, shapes and strides included; once."""


class Store(Protocol):
    """A place to put tensors away."""

    def put(self, tensors: Sequence[Tensor]) -> Held:
        """Puts tensors away, whose memory is free once nobody else holds them and they have left."""


class Chain:
    """What the layers of one model chunk put away, one forward pass after another.

    Args:
        store: where.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        # Not held here: what nobody will ask for, since its pass is over or was given up, goes.
        self._last: weakref.ref[Linked] | None = None

    def put(self, tensors: Sequence[Tensor], *, first: bool, stays: bool) -> Linked:
        """Puts a layer's tensors away.

        Args:
            tensors: of the layer.
            first: whether a forward pass begins with this layer.
            stays: whether they are left where they are, because somebody else holds them anyway.
        """
        held = IN_PLACE.put(tensors) if stays else self._store.put(tensors)
        linked = Linked(held, None if first or self._last is None else self._last())
        self._last = weakref.ref(linked)
        return linked


class Linked:
    """Tensors that were put away, and those of the layer before."""

    def __init__(self, held: Held, before: Linked | None) -> None:
        self._held: Held | None = held
        self._before = before

    def get(self) -> list[Tensor]:
        """These tensors; those of the layer before are on their way from then on."""
        held, before = self._held, self._before
        assert held is not None, "taken once"
        held.fetch()
        if before is not None and before._held is not None:
            before._held.fetch()
        self._held = self._before = None
        return held.get()


class _InPlace:
    """Leaves tensors where they are."""

    def put(self, tensors: Sequence[Tensor]) -> Held:
        return _Left(list(tensors))


class _Left(NamedTuple):
    tensors: list[Tensor]

    def fetch(self) -> None:
        pass

    def get(self) -> list[Tensor]:
        return self.tensors


IN_PLACE: Store = _InPlace()
"""Leaves tensors where they are."""


class Form(NamedTuple):
    """What a tensor's bytes do not say."""

    shape: torch.Size
    stride: tuple[int, ...]

    def of(self, flat: Tensor) -> Tensor:
        """The tensor whose numbers these are, in the order of its memory."""
        return flat.as_strided(self.shape, self.stride)


def laid_out(tensor: Tensor) -> tuple[Tensor, Form]:
    """All of a tensor's numbers in the order of its memory, without a copy where they fill it."""
    if not _fills_its_memory(tensor):
        tensor = tensor.contiguous()
    flat = tensor.detach().as_strided((tensor.numel(),), (1,))
    return flat, Form(tensor.shape, tensor.stride())


def _fills_its_memory(tensor: Tensor) -> bool:
    """Whether its numbers lie side by side, in whatever order of its dimensions."""
    expected = 1
    for step, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and step != expected:
            return False
        expected *= size
    return True
