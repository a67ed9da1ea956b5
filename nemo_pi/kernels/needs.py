"""What a model asks of the backends of its jobs, and what a backend can do. For rotary see capability.py."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What any job asks; softmax asks no more."""

    width: int
    """Channels that a call treats together: of a head, of a normed row, of one half of an MLP's hidden layer,
    of the vocabulary on this rank, of the residual stream (for products)."""
    device_type: str = "cpu"
    """Where the tensors live: cpu or cuda."""
    dtype: torch.dtype = torch.float32
    """What the layers compute in."""
    tokens: int = 0
    """Tokens of one call; 0 where nobody knows yet, and then nothing can be measured."""
    engine_layers: bool = False
    """Whether layers are Transformer Engine's."""

    def describe(self) -> str:
        """In words, for messages."""
        return f"{self.width} channels, {self.dtype} on {self.device_type}"

    def key(self) -> str:
        """All of it, as one line that is the same in every process."""
        return ", ".join(f"{field.name}={getattr(self, field.name)}" for field in fields(self))


@dataclass(frozen=True, kw_only=True)
class AttentionNeeds(Needs):
    """Of causal attention; `width` is that of a head, `tokens` those of one row."""

    heads: int
    """Query heads of this rank."""
    groups: int
    """Key/value heads of this rank."""
    window: bool = False
    """Whether a sliding window hides keys at this length."""
    split_rows: bool = False
    """Whether context-parallel ranks share each row."""

    def describe(self) -> str:
        """In words, for messages."""
        more = (", a sliding window" if self.window else "") + (", split rows" if self.split_rows else "")
        return f"heads of {super().describe()}{more}"


@dataclass(frozen=True, kw_only=True)
class NormNeeds(Needs):
    """Of norms."""

    norm: str = "RMSNorm"
    """RMSNorm or LayerNorm, which has a bias."""

    def describe(self) -> str:
        """In words, for messages."""
        return f"{self.norm} of {super().describe()}"


@dataclass(frozen=True, kw_only=True)
class ActivationNeeds(Needs):
    """Of the MLP's activation."""

    function: str = "silu"
    """A name in nemo_pi.kernels.activation.FUNCTIONS."""
    gated: bool = True
    """Whether the function of one half is multiplied with the other half."""

    @property
    def kind(self) -> str:
        """Both, as capabilities name them."""
        return f"gated {self.function}" if self.gated else self.function

    def describe(self) -> str:
        """In words, for messages."""
        return f"{self.kind} of {super().describe()}"


@dataclass(frozen=True, kw_only=True)
class ProductNeeds(Needs):
    """Of the linear layers' and the loss's products."""

    outputs: tuple[int, ...] = ()
    """Output widths of the layers whose input has `width` channels, on this rank."""


@dataclass(frozen=True)
class Capability:
    """What a backend can do, stated by what it was written for."""

    device_types: frozenset[str] | None = None
    """Devices it runs on; None means any."""
    dtypes: frozenset[torch.dtype] | None = None
    """Dtypes it takes; None means any floating one."""
    multiple_of: int = 1
    """What the width must be a multiple of."""
    widest: int | None = None
    """Channels at most; None means any number."""
    windows: bool = True
    """Whether attention takes a sliding window."""
    split_rows: bool = True
    """Whether attention takes rows that context-parallel ranks share."""
    norms: frozenset[str] = frozenset({"RMSNorm"})
    """Kinds of norms it computes."""
    activations: frozenset[str] | None = frozenset({"gated silu"})
    """Kinds of activations it computes (ActivationNeeds.kind); None means any."""
    engine_layers: bool | None = None
    """True: it comes with Transformer Engine's layers. False: those bring their own instead. None: either."""

    def lacks(self, needs: Needs) -> str | None:
        """Why it cannot meet `needs`, or None if it can."""
        if self.device_types is not None and needs.device_type not in self.device_types:
            return f"it runs on {' or '.join(sorted(self.device_types))}, not on {needs.device_type}"
        if self.dtypes is not None and needs.dtype not in self.dtypes:
            return f"it does not take {needs.dtype}"
        if needs.width % self.multiple_of:
            return f"it takes multiples of {self.multiple_of} channels, not {needs.width}"
        if self.widest is not None and needs.width > self.widest:
            return f"it takes up to {self.widest} channels, not {needs.width}"
        if isinstance(needs, AttentionNeeds):
            if needs.window and not self.windows:
                return "it knows no sliding window"
            if needs.split_rows and not self.split_rows:
                return "it takes whole rows, which context-parallel ranks do not have"
        if isinstance(needs, NormNeeds) and needs.norm not in self.norms:
            return f"it computes {' and '.join(sorted(self.norms))}, not {needs.norm}"
        if isinstance(needs, ActivationNeeds) and needs.kind not in (self.activations or (needs.kind,)):
            return f"it computes {', '.join(sorted(self.activations or ()))}, not {needs.kind}"
        if self.engine_layers is True and not needs.engine_layers:
            return "it comes with Transformer Engine's layers (model.transformer_engine)"
        if self.engine_layers is False and needs.engine_layers:
            return "Transformer Engine's layers (model.transformer_engine) bring their own"
        return None
