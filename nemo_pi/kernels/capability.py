"""What a model asks of a rotary kernel, and what a kernel can do."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

from nemo_pi.rope.spec import ContextExtension
from nemo_pi.rope.tables import attention_factor


@dataclass(frozen=True)
class RotaryNeeds:
    """What a model asks of its rotary kernel. Every token may stand at any position: all kernels do that."""

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
    has_attention_factor: bool = False
    """Whether cosines and sines carry an attention attention factor (YaRN's, LongRoPE's)."""
    heads: int = 0
    """Query and key heads of this rank; 0 where nobody knows yet, and then nothing can be measured."""
    tokens: int = 0
    """Tokens of one call; 0 likewise."""

    def describe(self) -> str:
        """In words, for messages."""
        layout = "interleaved" if self.interleaved else "half-rotate"
        rotary_dim = self.head_dim if self.rotary_dim is None else self.rotary_dim
        return f"{rotary_dim} of {self.head_dim} channels, {layout}, {self.dtype} on {self.device_type}"

    def key(self) -> str:
        """All of it, as one line that is the same in every process."""
        return ", ".join(f"{field.name}={getattr(self, field.name)}" for field in fields(self))


def rotary_needs(extension: ContextExtension, dtype: torch.dtype) -> RotaryNeeds:
    """What a model with this extension asks, computing in `dtype` on this machine."""
    return RotaryNeeds(
        head_dim=extension.head_dim,
        rotary_dim=extension.rotary_dim,
        interleaved=extension.interleaved,
        device_type="cuda" if torch.cuda.is_available() else "cpu",
        dtype=dtype,
        has_attention_factor=any(
            attention_factor(kind, kind.target_window) != 1.0 for kind in extension.kinds
        ),
    )


@dataclass(frozen=True)
class RotaryCapability:
    """What a rotary kernel can do, stated by what it was written for."""

    device_types: frozenset[str] | None
    """Devices it runs on; None means any."""
    dtypes: frozenset[torch.dtype] | None
    """Dtypes of q and k it takes without computing more coarsely than fp32; None means any floating one."""
    interleaved: bool
    """Whether it knows the layout of neighbouring pairs."""
    has_attention_factor: bool
    """Whether it takes cosines and sines as they are rather than angles."""
    max_head_dim: int | None = None
    """Channels of a head at most; None means any number."""

    def lacks(self, needs: RotaryNeeds) -> str | None:
        """Why it cannot meet `needs`, or None if it can."""
        if needs.interleaved and not self.interleaved:
            return "it does not know the interleaved layout"
        if needs.has_attention_factor and not self.has_attention_factor:
            return "it takes angles, which leave no room for this method's attention attention factor"
        if self.max_head_dim is not None and needs.head_dim > self.max_head_dim:
            return f"it takes heads of up to {self.max_head_dim} channels, not {needs.head_dim}"
        if self.device_types is not None and needs.device_type not in self.device_types:
            return f"it runs on {' or '.join(sorted(self.device_types))}, not on {needs.device_type}"
        if self.dtypes is not None and needs.dtype not in self.dtypes:
            return f"it does not take {needs.dtype}, or not with fp32 cosines and sines"
        return None
