"""Rotary kernels by name: what each can do, and which one a request gets.

A request by name gets that kernel or an error with the reason, never another one. Only `auto` chooses: the
first, in the order of KERNELS, that can do the job; it logs which and why, once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Protocol

import torch
from torch import Tensor

from nemo_pi.errors import BackendUnavailableError, ConfigError
from nemo_pi.kernels.reference import rotate_query_key

FIELD = "model.rotary_kernel"
_log = logging.getLogger(__name__)

_FLOATS = frozenset({torch.float32, torch.bfloat16, torch.float16})


class RotaryFunction(Protocol):
    """Rotates q and k [..., heads, head_dim] by cos and sin [..., F] in fp32; see kernels/reference.py."""

    def __call__(
        self, q: Tensor, k: Tensor, cos_F: Tensor, sin_F: Tensor, interleaved: bool = False
    ) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class RotaryNeeds:
    """What a model asks of its rotary kernel."""

    head_dim: int
    """Channels of one head."""
    rotary_dim: int | None = None
    """Rotated channels of one head; None means all."""
    interleaved: bool = False
    """Whether rotated pairs are neighbouring channels."""
    device_type: str = "cpu"
    """Where q and k live: cpu or cuda."""
    dtype: torch.dtype = torch.float32
    """Dtype of q and k."""
    per_token_positions: bool = True
    """Whether tokens of one row may stand at arbitrary positions (always so in nemo_pi's models)."""

    @property
    def is_partial(self) -> bool:
        """Whether some channels pass through unrotated."""
        return self.rotary_dim is not None and self.rotary_dim != self.head_dim


@dataclass(frozen=True)
class RotaryCapability:
    """What a rotary kernel can do, stated by what it was written for."""

    device_types: frozenset[str] | None
    """Devices it runs on; None means any."""
    dtypes: frozenset[torch.dtype] | None
    """Dtypes of q and k it takes; None means any floating one."""
    interleaved: bool
    """Whether it knows the layout of neighbouring pairs."""
    partial: bool
    """Whether it can leave channels unrotated."""
    per_token_positions: bool
    """Whether each token of each row may stand anywhere."""

    def lacks(self, needs: RotaryNeeds) -> str | None:
        """Why it cannot meet `needs`, or None if it can."""
        if needs.per_token_positions and not self.per_token_positions:
            return "it takes one run of positions for all rows, not a position for every token"
        if needs.interleaved and not self.interleaved:
            return "it does not know the interleaved layout"
        if needs.is_partial and not self.partial:
            return "it rotates all channels of a head or none"
        if self.device_types is not None and needs.device_type not in self.device_types:
            return f"it runs on {' or '.join(sorted(self.device_types))}, not on {needs.device_type}"
        if self.dtypes is not None and needs.dtype not in self.dtypes:
            return f"it does not take {needs.dtype}"
        return None


@dataclass(frozen=True)
class RotaryKernel:
    """A rotary kernel that nemo_pi knows by name; call it like `kernel(q, k, cos, sin, interleaved)`."""

    name: str
    """As written in YAML."""
    capability: RotaryCapability
    """What it can do."""
    function: RotaryFunction | None
    """What does it; None while this version of nemo_pi has only the record."""
    package: str | None = None
    """Module that must be importable for it; looked up, not imported."""

    def unusable(self, needs: RotaryNeeds) -> str | None:
        """Why it cannot be used here for `needs`, or None if it can."""
        lacking = self.capability.lacks(needs)
        if lacking is not None:
            return lacking
        if self.package is not None and find_spec(self.package) is None:
            return f"the module {self.package} is not installed"
        return "this version of nemo_pi has no such kernel" if self.function is None else None

    def __call__(
        self, q: Tensor, k: Tensor, cos_F: Tensor, sin_F: Tensor, interleaved: bool = False
    ) -> tuple[Tensor, Tensor]:
        """q and k rotated, in their own dtypes."""
        assert self.function is not None, f"{self.name} was never selected"
        return self.function(q, k, cos_F, sin_F, interleaved)


_CUDA = frozenset({"cuda"})
KERNELS: tuple[RotaryKernel, ...] = (
    RotaryKernel("triton", RotaryCapability(_CUDA, _FLOATS, True, True, True), None, package="triton"),
    # Both rotate row b, token s by s plus at most one offset per row, so PoSE and packing are beyond them.
    RotaryKernel(
        "transformer_engine",
        RotaryCapability(_CUDA, _FLOATS, True, True, False),
        None,
        package="transformer_engine_torch",
    ),
    # The compiled extension: a package called apex on public indexes is something else altogether.
    RotaryKernel(
        "apex",
        RotaryCapability(_CUDA, _FLOATS, False, True, False),
        None,
        package="fused_rotary_positional_embedding",
    ),
    RotaryKernel("torch", RotaryCapability(None, None, True, True, True), rotate_query_key),
)
"""All that are known, the fastest first."""


def select_rotary_kernel(
    request: str, needs: RotaryNeeds, kernels: tuple[RotaryKernel, ...] = KERNELS
) -> RotaryKernel:
    """The kernel that a request gets.

    Args:
        request: `auto`, or the name of one of `kernels`.
        needs: what the model asks of it.
        kernels: the candidates, the fastest first.

    Raises:
        ConfigError: for a name that is not known.
        BackendUnavailableError: if the kernel asked for by name cannot do the job here, with the reason.
    """
    reasons = {kernel.name: kernel.unusable(needs) for kernel in kernels}
    usable = [kernel for kernel in kernels if reasons[kernel.name] is None]
    if request == "auto":
        return _choose(usable, reasons, needs)
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
    return next(kernel for kernel in usable if kernel.name == request)


def _choose(usable: list[RotaryKernel], reasons: dict[str, str | None], needs: RotaryNeeds) -> RotaryKernel:
    if not usable:
        given = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        required = f"a kernel for {_describe(needs)}"
        raise BackendUnavailableError(FIELD, required=required, given=given, mend="see the reasons given")
    chosen = usable[0]
    passed_over = []
    for name, reason in reasons.items():
        if name == chosen.name:
            break
        passed_over.append(f"{name}: {reason}")
    because = "; ".join(passed_over) or "the fastest one known"
    _log_once(_log.info, f"{FIELD}: auto chose {chosen.name} for {_describe(needs)} ({because})")
    return chosen


@cache
def _log_once(log: Callable[[str], None], message: str) -> None:
    """Each layer of a model asks; one line is enough."""
    log(message)


def _describe(needs: RotaryNeeds) -> str:
    layout = "interleaved" if needs.interleaved else "half-rotate"
    rotary_dim = needs.head_dim if needs.rotary_dim is None else needs.rotary_dim
    return f"{rotary_dim} of {needs.head_dim} channels, {layout}, {needs.dtype} on {needs.device_type}"
