"""Rotary kernels by name: what each can do, and which one a request gets (see kernels/registry.py).

Beside names and `auto` there is `fused` (model.apply_rope_fusion: true): the first, in the order of KERNELS,
that turns everything in one pass and can do the job, or an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from nemo_pi.kernels import native, native_rotary, torch_rotary
from nemo_pi.kernels.adapters import is_installed, rotate_with_apex, rotate_with_transformer_engine
from nemo_pi.kernels.autograd import rotate_query_key
from nemo_pi.kernels.capability import RotaryCapability, RotaryNeeds
from nemo_pi.kernels.registry import Choice, Measured, choose_from, log_once, select
from nemo_pi.kernels.rotation import Angles, Heads, Rotation

FIELD = "model.rotary_kernel"
FUSED, FUSED_FIELD = "fused", "model.apply_rope_fusion"
"""A request for any kernel but PyTorch's operators; no name to write in YAML, where its field asks for it."""


class RotaryFunction(Protocol):
    """Rotates q and k [..., heads, head_dim] by cos and sin [..., F] in fp32; see kernels/reference.py."""

    def __call__(
        self, q: Tensor, k: Tensor, cos_F: Tensor, sin_F: Tensor, interleaved: bool = False
    ) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class RotaryKernel:
    """A rotary kernel that nemo_pi knows by name; call it like `kernel(q, k, cos, sin, interleaved)`."""

    name: str
    """As written in YAML."""
    capability: RotaryCapability
    """What it can do."""
    function: RotaryFunction
    """What does it."""
    package: str | None = None
    """Module that must be installed for it; looked up, not imported."""
    obstacle: Callable[[], str | None] | None = None
    """Says why it cannot run in this process, if so."""
    rotation: Rotation | None = None
    """The same for heads wherever they lie, where there is such a thing: it serves fused projections."""
    fused: bool = True
    """Whether it is one pass of its own rather than several of PyTorch's."""

    def unusable(self, needs: RotaryNeeds) -> str | None:
        """Why it cannot be used here for `needs`, or None if it can."""
        return self.capability.lacks(needs) or self.obstacle_here()

    def obstacle_here(self) -> str | None:
        """Why it cannot run in this process whatever is asked of it, or None if it can."""
        if self.package is not None and not is_installed(self.package):
            return f"the module {self.package} is not installed"
        return None if self.obstacle is None else self.obstacle()

    def __call__(
        self, q: Tensor, k: Tensor, cos_F: Tensor, sin_F: Tensor, interleaved: bool = False
    ) -> tuple[Tensor, Tensor]:
        """q and k rotated, in their own dtypes."""
        return self.function(q, k, cos_F, sin_F, interleaved)


def _rotate_with_triton(source: Heads, target: Heads, angles: Angles) -> None:
    """Imports Triton when a tensor is there to be rotated, not when kernels are looked up."""
    from nemo_pi.kernels.triton_rotary import rotate_heads

    rotate_heads(source, target, angles)


_CUDA = frozenset({"cuda"})
_FP32 = frozenset({torch.float32})
_FLOATS = frozenset({torch.float32, torch.bfloat16, torch.float16})
KERNELS: tuple[RotaryKernel, ...] = (
    RotaryKernel(
        "triton",
        RotaryCapability(_CUDA, _FLOATS, interleaved=True, has_attention_factor=True, max_head_dim=256),
        partial(rotate_query_key, _rotate_with_triton),
        package="triton",
        rotation=_rotate_with_triton,
    ),
    RotaryKernel(
        "transformer_engine",
        RotaryCapability(_CUDA, _FLOATS, interleaved=True, has_attention_factor=False),
        rotate_with_transformer_engine,
        package="transformer_engine_torch",
    ),
    # The compiled extension: a package called apex on public indexes is something else altogether.
    RotaryKernel(
        "apex",
        RotaryCapability(_CUDA, _FP32, interleaved=False, has_attention_factor=True),
        rotate_with_apex,
        package="fused_rotary_positional_embedding",
    ),
    RotaryKernel(
        "native",
        RotaryCapability(frozenset({"cpu"}), _FLOATS, interleaved=True, has_attention_factor=True),
        partial(rotate_query_key, native_rotary.rotate_heads),
        obstacle=native.obstacle,
        rotation=native_rotary.rotate_heads,
    ),
    RotaryKernel(
        "torch",
        RotaryCapability(None, None, interleaved=True, has_attention_factor=True),
        partial(rotate_query_key, torch_rotary.rotate_heads),
        rotation=torch_rotary.rotate_heads,
        fused=False,
    ),
)
"""All that are known, the fastest first."""


def select_rotary_kernel(
    request: str, needs: RotaryNeeds, kernels: tuple[RotaryKernel, ...] = KERNELS
) -> RotaryKernel:
    """The kernel that a request gets, without measuring any; says once in the log why.

    Args:
        request: `auto`, `fused`, or the name of one of `kernels`.
        needs: what the model asks of it.
        kernels: the candidates, the fastest first.

    Raises:
        ConfigError: for a name that is not known.
        BackendUnavailableError: if the kernel asked for by name cannot do the job here, or no fused one can,
            with the reasons.
    """
    choice = choose_rotary_kernel(request, needs, kernels)
    log_once(choice.said)
    return choice.backend


def choose_rotary_kernel(
    request: str,
    needs: RotaryNeeds,
    kernels: tuple[RotaryKernel, ...] = KERNELS,
    measure: Callable[[Sequence[RotaryKernel]], Measured] | None = None,
    elsewhere: Mapping[str, str] | None = None,
) -> Choice[RotaryKernel]:
    """As select_rotary_kernel; `auto` takes the fastest where `measure` times those that can do the job."""
    if request != FUSED:
        return select(FIELD, request, needs, kernels, measure=measure, kind="kernel", elsewhere=elsewhere)
    kernels = tuple(kernel for kernel in kernels if kernel.fused)
    there = elsewhere or {}
    reasons = {kernel.name: there.get(kernel.name) or kernel.unusable(needs) for kernel in kernels}
    usable = [kernel for kernel in kernels if reasons[kernel.name] is None]
    choice = choose_from(
        FUSED_FIELD,
        "true",
        needs,
        usable,
        reasons,
        kind="fused kernel",
        otherwise="write null: rotary_kernel decides, and its auto runs anywhere",
    )
    return replace(choice, asked=FUSED, how="apply_rope_fusion")
