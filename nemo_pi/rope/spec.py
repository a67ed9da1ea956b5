"""The one description of how a model's positions are made; everything about RoPE is derived from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from nemo_pi.rope import validation
from nemo_pi.rope.extra_args import validate_extra_args
from nemo_pi.rope.validation import METHODS

__all__ = ["METHODS", "ContextExtension"]


@dataclass(frozen=True)
class ContextExtension:
    """RoPE (arXiv 2104.09864) and its extension from one context window to another.

    Make one with `build` (from a run's YAML), `unscaled` (a plain model), `from_dict` (a checkpoint's
    manifest) or `nemo_pi.rope.hf.from_hf` (a Hugging Face config). However it is made, it is validated:
    an instance that contradicts itself cannot exist.

    Raises:
        ConfigError: naming the YAML key, for any value that is wrong by itself or against another.
    """

    original_window: int
    """Tokens the model was pretrained to read (L)."""
    target_window: int
    """Tokens it shall read (L'); equal to original_window where nothing is extended."""
    method: str = "none"
    """One of METHODS. `none` with a longer target is direct fine-tuning: plain RoPE, trained further."""
    factor: float = 1.0
    """How many times longer (s), at least 1; L' = s·L for every method but none and llama3."""
    head_dim: int = 128
    """Channels of one attention head."""
    base: float = 10000.0
    """RoPE's base b (Hugging Face: rope_theta), before any scaling."""
    rotary_percent: float = 1.0
    """Share of a head's channels that is rotated, in (0, 1]; the remaining ones pass through."""
    interleaved: bool = False
    """Whether pairs are neighbours (2j, 2j+1) rather than halves (j, j + D/2)."""
    extra: tuple[tuple[str, Any], ...] = ()
    """What only this method takes, sorted by name; lists are kept as tuples so that the spec is hashable."""

    def __post_init__(self) -> None:
        validation.check_window("model.original_max_position_embeddings", self.original_window)
        validation.check_window("model.max_position_embeddings", self.target_window)
        validation.check_method(self.method)
        validation.check_base(self.base)
        validation.check_rotary_dim(self.head_dim, self.rotary_percent, self.method)
        validation.check_flag("model.rotary_interleaved", self.interleaved)
        validation.check_factor(self.factor)
        validation.check_windows_agree(self.original_window, self.target_window, self.method, self.factor)
        object.__setattr__(self, "factor", float(self.factor))
        object.__setattr__(self, "base", float(self.base))
        object.__setattr__(self, "rotary_percent", float(self.rotary_percent))
        extra = validate_extra_args(self.method, dict(self.extra), num_frequencies=self.rotary_dim // 2)
        object.__setattr__(self, "extra", extra)

    @property
    def rotary_dim(self) -> int:
        """Rotated channels of one head (D), rounded down as Hugging Face does; even."""
        return int(self.head_dim * self.rotary_percent)

    @property
    def extra_args(self) -> dict[str, Any]:
        """A fresh dict of what only this method takes."""
        return dict(self.extra)

    @property
    def is_scaled(self) -> bool:
        """Whether positions are made otherwise than by plain RoPE.

        LongRoPE's lists and an explicit attention factor act even where the window factor is 1.
        """
        if self.method == "none":
            return False
        overridden = self.extra_args.get("attention_factor") not in (None, 1.0)
        return self.factor != 1.0 or self.method == "longrope" or overridden

    @property
    def depends_on_length(self) -> bool:
        """Whether the frequencies change with the length of the sequence being read."""
        return self.method in ("dynamic", "longrope")

    @classmethod
    def build(
        cls,
        *,
        original_window: int,
        target_window: int,
        method: str = "linear",
        factor: float | None = None,
        head_dim: int,
        base: float = 10000.0,
        rotary_percent: float = 1.0,
        interleaved: bool = False,
        extra_args: Mapping[str, Any] | None = None,
    ) -> ContextExtension:
        """Make a spec from a run's settings.

        Args:
            original_window: tokens the checkpoint was pretrained to read.
            target_window: tokens it shall read.
            method: one of METHODS.
            factor: how many times longer; None derives it as target_window / original_window
                (1 for method `none`).
            head_dim: channels of one attention head.
            base: RoPE's base.
            rotary_percent: share of a head's channels that is rotated, in (0, 1].
            interleaved: whether rotated pairs are neighbouring channels rather than halves.
            extra_args: what only this method takes (see nemo_pi.rope.extra_args).

        Raises:
            ConfigError: naming the YAML key, what is required, what was given and the mend.
        """
        validation.check_window("model.original_max_position_embeddings", original_window)
        validation.check_window("model.max_position_embeddings", target_window)
        validation.check_method(method)
        if factor is None:
            validation.check_not_shorter(original_window, target_window)
            factor = 1.0 if method == "none" else target_window / original_window
        extra = validation.as_mapping("model.pos_scaling_extra_args", extra_args)
        return cls(
            original_window=original_window,
            target_window=target_window,
            method=method,
            factor=factor,
            head_dim=head_dim,
            base=base,
            rotary_percent=rotary_percent,
            interleaved=interleaved,
            extra=tuple(extra.items()),
        )

    @classmethod
    def unscaled(
        cls,
        original_window: int,
        head_dim: int,
        base: float = 10000.0,
        rotary_percent: float = 1.0,
        interleaved: bool = False,
    ) -> ContextExtension:
        """Plain RoPE over a model's own window."""
        return cls(
            original_window=original_window,
            target_window=original_window,
            head_dim=head_dim,
            base=base,
            rotary_percent=rotary_percent,
            interleaved=interleaved,
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready copy: `from_dict(json.loads(json.dumps(spec.to_dict()))) == spec`."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "extra"}
        extra = {key: list(value) if isinstance(value, tuple) else value for key, value in self.extra}
        return {**values, "extra_args": extra}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ContextExtension:
        """The inverse of to_dict; keys it does not know are ignored (files of other versions).

        Raises:
            ConfigError: for a window that is missing, or any value that is wrong.
        """
        known = {field.name for field in fields(cls)} - {"extra"}
        values = {"original_window": None, "target_window": None, **values}
        extra = validation.as_mapping("model.pos_scaling_extra_args", values.get("extra_args"))
        return cls(**{key: values[key] for key in known & set(values)}, extra=tuple(extra.items()))
