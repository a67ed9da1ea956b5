"""The one description of how a model's positions are made; everything about RoPE is derived from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from nemo_pi.errors import ConfigError
from nemo_pi.rope import validation
from nemo_pi.rope.methods.base import RopeNumbers, ScalingMethod
from nemo_pi.rope.methods.registry import BUILT_IN, INTERPOLATION, PLUG_INS, UNSCALED, method_named
from nemo_pi.rope.query_scale import QueryScale

METHODS = tuple(BUILT_IN)
"""Names of the methods that come with nemo_pi; installed packages may add to them."""

_DERIVED = ("numbers", "scaling")
_NESTED = ("sliding", "query_scale")
PROVIDER = "method_package"
"""Key of to_dict that names the installed package behind a method that is not ours."""


@dataclass(frozen=True)
class ContextExtension:
    """RoPE (arXiv 2104.09864) and its extension from one context window to another.

    Make one with `build` (from a run's YAML), `unscaled` (a plain model), `from_dict` (a checkpoint's
    manifest) or `nemo_pi.rope.hf.from_hf` (a Hugging Face config). However it is made, it is validated:
    an instance that contradicts itself cannot exist.

    Raises:
        ConfigError: naming the field, for any value that is wrong by itself or against another.
    """

    original_window: int
    """Tokens the model was pretrained to read (L)."""
    target_window: int
    """Tokens it shall read (L'); equal to original_window where nothing is extended."""
    method: str = UNSCALED
    """A registered method. `none` with a longer target is direct fine-tuning: plain RoPE, trained further."""
    factor: float = 1.0
    """How many times longer (s), at least 1; L' = s·L unless the method says otherwise."""
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
    sliding: ContextExtension | None = None
    """How positions are made in layers with a sliding window, where these have rotary embeddings of their own
    (Gemma 3, OLMo 3); everything above is then that of the other layers. None: as in the other layers."""
    query_scale: QueryScale | None = None
    """How queries grow with their position (Ministral 3); None: they do not."""

    numbers: RopeNumbers = field(init=False, repr=False, compare=False)
    """The numbers above, as methods take them."""
    scaling: ScalingMethod = field(init=False, repr=False, compare=False)
    """The method itself, with its arguments checked."""

    def __post_init__(self) -> None:
        validation.check_window("original_window", self.original_window)
        validation.check_window("target_window", self.target_window)
        method = method_named(self.method)
        validation.check_base(self.base)
        validation.check_rotary_dim(self.head_dim, self.rotary_percent)
        validation.check_enough_rotated(
            self.head_dim, self.rotary_percent, method.name, method.min_rotary_dim
        )
        validation.check_flag("interleaved", self.interleaved)
        validation.check_factor(self.factor)
        validation.check_not_shorter(self.original_window, self.target_window)
        if method.factor_is_ratio:
            validation.check_factor_is_ratio(self.original_window, self.target_window, self.factor)
        numbers = RopeNumbers(
            original_window=self.original_window,
            target_window=self.target_window,
            factor=float(self.factor),
            base=float(self.base),
            head_dim=self.head_dim,
            rotary_percent=float(self.rotary_percent),
        )
        scaling = method.build(dict(self.extra), numbers)
        self._check_frequencies(scaling, numbers)
        for name in ("factor", "base", "rotary_percent"):
            object.__setattr__(self, name, getattr(numbers, name))
        object.__setattr__(self, "extra", scaling.arguments())
        object.__setattr__(self, "numbers", numbers)
        object.__setattr__(self, "scaling", scaling)
        if self.sliding is not None:
            object.__setattr__(self, "sliding", self._checked(self.sliding))

    def _checked(self, sliding: ContextExtension) -> ContextExtension:
        """The extension of layers with a sliding window, which are built like the others."""
        if sliding.sliding is not None or sliding.query_scale is not None:
            raise ConfigError(
                "sliding",
                required="rotary embeddings alone",
                given="an extension with `sliding` or `query_scale` of its own",
                fix="leave these two out there",
            )
        for name in ("head_dim", "rotary_percent"):
            mine, theirs = getattr(self, name), getattr(sliding, name)
            if mine != theirs:
                # One kernel turns the heads of all layers, by tables of one width.
                raise ConfigError(
                    name,
                    required=f"{mine} in layers with a sliding window, too",
                    given=theirs,
                    fix="only a model whose layers rotate the same channels can be computed here",
                )
        same: dict[str, Any] = {"interleaved": self.interleaved}
        if not sliding.is_scaled:
            # Plain frequencies follow from no window: theirs is the model's, whatever a file says.
            same |= {"original_window": self.original_window, "target_window": self.target_window}
        return replace(sliding, **same)

    def _check_frequencies(self, scaling: ScalingMethod, numbers: RopeNumbers) -> None:
        """No pair may turn so slowly that fp32 holds its frequency as 0 or nearly so."""
        validation.check_frequencies("base", numbers.base, numbers.rotary_dim)
        try:
            base, divisor = scaling.slowest(numbers)
        except OverflowError:  # of a Python float: a factor of 1e200, squared
            base, divisor = math.inf, 1.0
        validation.check_frequencies("factor", base, numbers.rotary_dim, divisor)

    @property
    def rotary_dim(self) -> int:
        """Rotated channels of one head (D), rounded down as Hugging Face does; even."""
        return self.numbers.rotary_dim

    @property
    def extra_args(self) -> dict[str, Any]:
        """A fresh dict of what only this method takes."""
        return dict(self.extra)

    @property
    def kinds(self) -> tuple[ContextExtension, ...]:
        """The extension of each kind of layer: this one and, where there is one, that of sliding layers."""
        return (self,) if self.sliding is None else (self, self.sliding)

    @property
    def is_scaled(self) -> bool:
        """Whether positions are made otherwise than by plain RoPE, in layers of any kind."""
        return any(kind.scaling.is_scaled(kind.numbers) for kind in self.kinds)

    @property
    def learned_window(self) -> int:
        """Tokens that the model was trained to read without scaling.

        Where it is not scaled, all of its window: fine-tuned directly, it has learned what it was trained at.
        """
        return self.original_window if self.is_scaled else self.target_window

    @property
    def depends_on_length(self) -> bool:
        """Whether frequencies of any kind of layer change with the length of the sequence being read."""
        return any(kind.scaling.depends_on_length for kind in self.kinds)

    @classmethod
    def build(
        cls,
        *,
        original_window: int,
        target_window: int,
        method: str = INTERPOLATION,
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
            method: a registered method.
            factor: how many times longer; None lets the method derive it, as
                target_window / original_window unless it does not scale.
            head_dim: channels of one attention head.
            base: RoPE's base.
            rotary_percent: share of a head's channels that is rotated, in (0, 1].
            interleaved: whether rotated pairs are neighbouring channels rather than halves.
            extra_args: what only this method takes (see nemo_pi.rope.methods).

        Raises:
            ConfigError: naming the field, what is required, what was given and the fix.
        """
        validation.check_window("original_window", original_window)
        validation.check_window("target_window", target_window)
        derived = method_named(method).derived_factor
        if factor is None:
            validation.check_not_shorter(original_window, target_window)
            factor = derived(original_window, target_window)
        extra = validation.as_mapping("extra_args", extra_args)
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
        """A JSON-ready copy: `from_dict(json.loads(json.dumps(spec.to_dict()))) == spec`.

        Where another package registered the method, its name stands there too, for whoever lacks it later.
        """
        left_out = ("extra", *_DERIVED, *_NESTED)
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left_out}
        values["extra_args"] = {
            key: list(value) if isinstance(value, tuple) else value for key, value in self.extra
        }
        # What most models do not have is left out: their files are those of earlier versions.
        nested = {name: getattr(self, name) for name in _NESTED}
        values |= {name: value.to_dict() for name, value in nested.items() if value is not None}
        provider = PLUG_INS.provider(self.method)
        return values if provider is None else {**values, PROVIDER: provider}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ContextExtension:
        """The inverse of to_dict; keys it does not know are ignored (files of other versions).

        A method is looked up among the registered names; the values never name code.

        Raises:
            ConfigError: for a window that is missing, a method that nobody has registered here (naming the
                package that had), or any value that is wrong.
        """
        known = {f.name for f in fields(cls)} - {"extra", *_DERIVED, *_NESTED}
        values = {"original_window": None, "target_window": None, **values}
        extra = validation.as_mapping("extra_args", values.get("extra_args"))
        if values.get(PROVIDER) is not None:
            method_named(values.get("method"), package=str(values[PROVIDER]))
        kinds: dict[str, Any] = {"sliding": cls, "query_scale": QueryScale}
        nested = {
            name: kinds[name].from_dict(validation.as_mapping(name, values[name]))
            for name in _NESTED
            if values.get(name) is not None
        }
        return cls(**{key: values[key] for key in known & set(values)}, extra=tuple(extra.items()), **nested)
