"""Attention that is not computed again in a recomputed layer.

The first time, attention runs under autograd although the layer around it does not, and what its backward
pass needs is kept, without query, key and value: its output and a log-sum-exp for each query and head. The
second time the output is there, query, key and value are the recomputed ones, and the backward pass goes
through the first time's. So it is the same for every kernel, and for rows split over context-parallel ranks:
nothing here knows what a kernel saves.

At long windows attention is most of what recomputation costs, and its output as large as a layer's input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.autograd.graph import GradientEdge, get_gradient_edge, saved_tensors_hooks

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of query, key and value."""


class KeptAttention:
    """The calls of one layer's attention in one forward pass, in order (one for each row, or document)."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._again = 0
        self._is_over = False

    def attend(self, function: Attend, *qkv: Tensor) -> Tensor:
        """`function(*qkv)`: computed the first time, and its output as it was the second time."""
        if self._is_over:
            call = self._calls[self._again]
            self._again += 1
            return call.again(qkv)
        call = _Call()
        self._calls.append(call)
        return call.first(function, qkv)

    def take(self) -> list[Tensor]:
        """What has been kept, which is held here no longer; the first time is over.

        A generator's state and the like are a few bytes, and stay.
        """
        self._is_over = True
        found = []
        for call in self._calls:
            for number, tensor in enumerate(call.kept):
                if tensor is not None and tensor.is_floating_point():
                    found.append(tensor)
                    call.kept[number] = None
        return found

    def give_back(self, tensors: Sequence[Tensor]) -> None:
        """What `take` returned, before the second time begins."""
        rest = iter(tensors)
        for call in self._calls:
            call.kept = [next(rest) if tensor is None else tensor for tensor in call.kept]


class _Part(NamedTuple):
    """A view of query, key or value."""

    of: int
    """Which of the three."""
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int
    """From its beginning."""


class _Call:
    """One call of attention."""

    def __init__(self) -> None:
        self._inputs: tuple[Tensor, ...] = ()
        self._strides: list[tuple[int, ...]] = []
        self.kept: list[Tensor | None] = []
        self._edges: tuple[GradientEdge, ...] = ()
        self._out_edge: GradientEdge | None = None
        self._out: int = 0

    def first(self, function: Attend, inputs: tuple[Tensor, ...]) -> Tensor:
        self._inputs, self._strides = inputs, [x.stride() for x in inputs]
        # A tensor that wants a gradient, for the inputs, which have none here, to come from.
        root = torch.zeros((), requires_grad=True)
        with torch.enable_grad(), saved_tensors_hooks(self._pack, self._unpack):
            entered = _Enter.apply(root, *inputs)
            out = function(*entered)
        self._edges = tuple(get_gradient_edge(x) for x in entered)
        self._out_edge = get_gradient_edge(out)
        out = out.detach()
        # Most backward passes need the output, so it is there already.
        packed = self._pack(out)
        assert isinstance(packed, int), "attention returns a tensor of its own"
        self._out, self._inputs = packed, ()
        return out

    def again(self, inputs: tuple[Tensor, ...]) -> Tensor:
        assert [x.stride() for x in inputs] == self._strides, "recomputed tensors lie as the first ones did"
        out: Tensor = _Again.apply(self, *inputs)
        return out

    @property
    def out(self) -> Tensor:
        """Attention's output."""
        return self._kept(self._out).detach()

    def gradients(self, grad_out: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        assert self._out_edge is not None
        self._inputs = inputs
        found = torch.autograd.grad(self._out_edge, self._edges, grad_out)
        self._inputs, self.kept, self._edges, self._out_edge = (), [], (), None
        return found

    def _pack(self, tensor: Tensor) -> _Part | int:
        """What autograd holds in place of a tensor that it saves."""
        place = tensor.untyped_storage().data_ptr()
        for number, x in enumerate(self._inputs):
            if x.untyped_storage().data_ptr() == place and x.dtype == tensor.dtype:
                offset = int(tensor.storage_offset() - x.storage_offset())
                return _Part(number, tensor.shape, tensor.stride(), offset)
        for number, kept in enumerate(self.kept):
            if kept is not None and _same(kept, tensor):
                return number
        self.kept.append(tensor.detach())
        return len(self.kept) - 1

    def _unpack(self, packed: _Part | int) -> Tensor:
        if isinstance(packed, int):
            return self._kept(packed)
        base = self._inputs[packed.of].detach()
        return base.as_strided(packed.shape, packed.stride, base.storage_offset() + packed.offset)

    def _kept(self, number: int) -> Tensor:
        tensor = self.kept[number]
        assert tensor is not None, "given back before the second time begins"
        return tensor


def _same(one: Tensor, other: Tensor) -> bool:
    return (one.data_ptr(), one.shape, one.stride()) == (other.data_ptr(), other.shape, other.stride())


class _Enter(torch.autograd.Function):
    """The tensors as they are, to autograd the results of something."""

    @staticmethod
    def forward(ctx: Any, root: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(x.view_as(x) for x in inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, ...]:
        raise AssertionError("gradients are taken before they get here")


class _Again(torch.autograd.Function):
    """Attention's output as it was, and its gradients by what was kept of the first time."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        ctx.call = call
        return call.out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.call.gradients(grad_out, ctx.saved_tensors)
