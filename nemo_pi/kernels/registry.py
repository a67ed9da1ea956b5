"""Rotary kernels by name: what each can do, and which one a request gets.

A request by name gets that kernel or an error with the reason, never another one. `auto` chooses: the first,
in the order of KERNELS, that can do the job. So does `fused` (model.apply_rope_fusion: true), among kernels
that turn everything in one pass, or it is an error. Which one it is, and why, is logged once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Protocol

import torch
from torch import Tensor

from nemo_pi.errors import BackendUnavailableError, ConfigError
from nemo_pi.kernels import native, native_rotary, torch_rotary
from nemo_pi.kernels.adapters import is_installed, rotate_with_apex, rotate_with_transformer_engine
from nemo_pi.kernels.autograd import rotate_query_key
from nemo_pi.kernels.capability import RotaryCapability, RotaryNeeds
from nemo_pi.kernels.rotation import Angles, Heads, Rotation

FIELD = "model.rotary_kernel"
FUSED, FUSED_FIELD = "fused", "model.apply_rope_fusion"
"""A request for any kernel but PyTorch's operators; no name to write in YAML, where its field asks for it."""
_log = logging.getLogger(__name__)


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
        lacking = self.capability.lacks(needs)
        if lacking is None and self.package is not None and not is_installed(self.package):
            return f"the module {self.package} is not installed"
        if lacking is None and self.obstacle is not None:
            return self.obstacle()
        return lacking

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
        RotaryCapability(_CUDA, _FLOATS, interleaved=True, tempered=True, max_head_dim=256),
        partial(rotate_query_key, _rotate_with_triton),
        package="triton",
        rotation=_rotate_with_triton,
    ),
    RotaryKernel(
        "transformer_engine",
        RotaryCapability(_CUDA, _FLOATS, interleaved=True, tempered=False),
        rotate_with_transformer_engine,
        package="transformer_engine_torch",
    ),
    # The compiled extension: a package called apex on public indexes is something else altogether.
    RotaryKernel(
        "apex",
        RotaryCapability(_CUDA, _FP32, interleaved=False, tempered=True),
        rotate_with_apex,
        package="fused_rotary_positional_embedding",
    ),
    RotaryKernel(
        "native",
        RotaryCapability(frozenset({"cpu"}), _FLOATS, interleaved=True, tempered=True),
        partial(rotate_query_key, native_rotary.rotate_heads),
        obstacle=native.obstacle,
        rotation=native_rotary.rotate_heads,
    ),
    RotaryKernel(
        "torch",
        RotaryCapability(None, None, interleaved=True, tempered=True),
        partial(rotate_query_key, torch_rotary.rotate_heads),
        rotation=torch_rotary.rotate_heads,
        fused=False,
    ),
)
"""All that are known, the fastest first."""


def select_rotary_kernel(
    request: str, needs: RotaryNeeds, kernels: tuple[RotaryKernel, ...] = KERNELS
) -> RotaryKernel:
    """The kernel that a request gets.

    Args:
        request: `auto`, `fused`, or the name of one of `kernels`.
        needs: what the model asks of it.
        kernels: the candidates, the fastest first.

    Raises:
        ConfigError: for a name that is not known.
        BackendUnavailableError: if the kernel asked for by name cannot do the job here, or no fused one can,
            with the reasons.
    """
    if request == FUSED:
        kernels = tuple(kernel for kernel in kernels if kernel.fused)
    reasons = {kernel.name: kernel.unusable(needs) for kernel in kernels}
    usable = [kernel for kernel in kernels if reasons[kernel.name] is None]
    if request in ("auto", FUSED):
        return _choose(request, usable, reasons, needs)
    if request not in reasons:
        required = "auto or one of " + ", ".join(reasons)
        raise ConfigError(
            FIELD, required=required, given=repr(request), mend="write auto, or one of these names"
        )
    reason = reasons[request]
    if reason is not None:
        others = ", ".join(kernel.name for kernel in usable) or "none"
        mend = f"write auto, or one that can do it here ({others})"
        required = f"a {request} kernel for {_describe(needs)}"
        raise BackendUnavailableError(FIELD, required=required, given=f"none: {reason}", mend=mend)
    _log_once(_log.info, f"{FIELD}: {request}, as asked for, for {_describe(needs)}")
    return next(kernel for kernel in usable if kernel.name == request)


def _choose(
    request: str, usable: list[RotaryKernel], reasons: dict[str, str | None], needs: RotaryNeeds
) -> RotaryKernel:
    field, asked = (FUSED_FIELD, "true") if request == FUSED else (FIELD, "auto")
    if not usable:
        given = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        required = f"a {'fused ' if request == FUSED else ''}kernel for {_describe(needs)}"
        mend = "see the reasons given"
        if request == FUSED:
            mend = "write null: rotary_kernel decides, and its auto runs anywhere"
        raise BackendUnavailableError(field, required=required, given=f"none: {given}", mend=mend)
    chosen = usable[0]
    passed_over = []
    for name, reason in reasons.items():
        if name == chosen.name:
            break
        passed_over.append(f"{name}: {reason}")
    because = "; ".join(passed_over) or "the fastest one known"
    _log_once(_log.info, f"{field}: {asked} chose {chosen.name} for {_describe(needs)} ({because})")
    return chosen


@cache
def _log_once(log: Callable[[str], None], message: str) -> None:
    """Each layer of a model asks; one line is enough."""
    log(message)


def _describe(needs: RotaryNeeds) -> str:
    layout = "interleaved" if needs.interleaved else "half-rotate"
    rotary_dim = needs.head_dim if needs.rotary_dim is None else needs.rotary_dim
    return f"{rotary_dim} of {needs.head_dim} channels, {layout}, {needs.dtype} on {needs.device_type}"
