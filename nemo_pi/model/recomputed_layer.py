"""A layer that is computed again in the backward pass, with what is kept of it put away.

Megatron's own recomputation keeps each layer's input where it is and computes all of the layer again. Here
the input may wait in host memory or in a file (activation_places.py), and attention may be spared
(kept_attention.py). Numbers are those of Megatron's, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.tensor_parallel import random as megatron_random
from torch import Tensor
from torch.autograd.function import once_differentiable

from nemo_pi.model.activation_store import Chain
from nemo_pi.model.core_attention import SdpaCoreAttention
from nemo_pi.model.kept_attention import KeptAttention
from nemo_pi.model.tiled_mlp import TiledMLP

Run = Callable[[Tensor, "KeptAttention | None", bool], Tensor]
"""A layer's input, its attention (None: computed) and whether this is the second time, to its output."""


@dataclass(frozen=True)
class Policy:
    """What the layers of one model chunk do."""

    chain: Chain
    """Where they put away what they keep."""
    num_layers: int
    """Of the chunk."""
    recomputed: int
    """How many of them, from the first one, are computed again."""
    keeps_attention: bool
    """Whether attention is spared."""
    output_is_normed: bool
    """Whether the MLP's output passes a norm, whose backward pass reads it."""
    first_is_held: bool
    """Whether others hold the first layer's input anyway: Megatron's schedule does, of a later stage."""
    last_is_next: bool
    """Whether the backward pass begins with this chunk as soon as the forward pass ends."""


def recomputed(layer: type, policy: Policy) -> type:
    """A kind of Megatron's layers that computes itself again."""

    class Recomputed(layer):
        def __init__(self, config: Any, *args: Any, layer_number: int = 1, **kwargs: Any) -> None:
            super().__init__(config, *args, layer_number=layer_number, **kwargs)
            # Megatron counts the layers of a chunk from 1 here, and adds those of the chunks before itself.
            self._place = layer_number

        def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            forward = super().forward
            again = self._place <= policy.recomputed
            if not (self.training and torch.is_grad_enabled() and again):
                return forward(hidden_states, *args, **kwargs)

            def run(hidden_SBH: Tensor, kept: KeptAttention | None, is_second: bool) -> Tensor:
                with (
                    _attention_of(self, kept),
                    _output_unread(self, is_second and not policy.output_is_normed),
                ):
                    output_SBH, _ = forward(hidden_SBH, *args, **kwargs)
                return output_SBH

            # A leaf that wants a gradient: in a model whose embedding is frozen, no input does.
            root = hidden_states.new_zeros((), requires_grad=True)
            output_SBH = _Recompute.apply(root, hidden_states, run, policy, self._place)
            return output_SBH, None

    return Recomputed


@contextmanager
def _attention_of(layer: Any, kept: KeptAttention | None) -> Any:
    core = layer.self_attention.core_attention
    if kept is None:
        yield
        return
    assert isinstance(core, SdpaCoreAttention), "other attention is refused where the YAML is read"
    core.kept = kept
    try:
        yield
    finally:
        core.kept = None


@contextmanager
def _output_unread(layer: Any, unread: bool) -> Any:
    """Spares a tiled MLP, the last thing in a layer, the second time, in which nobody looks at its output."""
    if not (unread and isinstance(layer.mlp, TiledMLP)):
        yield
        return
    layer.mlp.output_is_unread = True
    try:
        yield
    finally:
        layer.mlp.output_is_unread = False


class _Recompute(torch.autograd.Function):
    """As Megatron's CheckpointFunction, generators included."""

    @staticmethod
    def forward(ctx: Any, root: Tensor, hidden_SBH: Tensor, run: Run, policy: Policy, place: int) -> Tensor:
        ctx.generators = megatron_random._get_all_rng_states()
        ctx.run, ctx.kept = run, KeptAttention() if policy.keeps_attention else None
        output_SBH = run(hidden_SBH, ctx.kept, False)
        attention = ctx.kept.take() if ctx.kept is not None else []
        is_last = place == policy.num_layers
        stays = (place == 1 and policy.first_is_held) or (is_last and policy.last_is_next)
        ctx.held = policy.chain.put([hidden_SBH, *attention], first=place == 1, stays=stays)
        return output_SBH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_SBH: Tensor) -> tuple[Tensor | None, ...]:
        hidden_SBH, *attention = ctx.held.get()
        ctx.held = None
        if ctx.kept is not None:
            ctx.kept.give_back(attention)
        del attention
        leaf_SBH = hidden_SBH.detach().requires_grad_()
        with megatron_random._fork_rng():
            megatron_random._set_all_rng_states(*ctx.generators)
            with torch.enable_grad():
                output_SBH = ctx.run(leaf_SBH, ctx.kept, True)
        torch.autograd.backward(output_SBH, grad_SBH)
        return None, leaf_SBH.grad, None, None, None
