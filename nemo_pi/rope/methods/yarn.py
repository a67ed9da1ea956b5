"""YaRN (arXiv 2309.00071): interpolate slow frequencies, keep fast ones, and warm the attention."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nemo_pi.errors import ConfigError
from nemo_pi.rope.methods import plain
from nemo_pi.rope.methods.arguments import MOST_ATTENTION_FACTOR, flag, number
from nemo_pi.rope.methods.base import RopeNumbers, ScalingMethod
from nemo_pi.rope.methods.candidates import Candidate
from nemo_pi.rope.methods.hf_rope import HfRope

BETA_FAST = 32.0
"""Rotations within the original window above which a frequency is kept."""
BETA_SLOW = 1.0
"""Rotations within the original window below which a frequency is interpolated entirely."""


def correction_dim(rotations: float, rotary_dim: int, base: float, original_window: int) -> float:
    """Index j of the frequency that turns `rotations` times within the original window (section 3.2)."""
    return rotary_dim * math.log(original_window / (rotations * 2 * math.pi)) / (2 * math.log(base))


def correction_range(
    rotary_dim: int, base: float, original_window: int, beta_fast: float, beta_slow: float, truncate: bool
) -> tuple[float, float]:
    """Indices between which the ramp rises; truncate widens it to whole numbers, as in the released code.

    The upper end is clamped to D-1 as Hugging Face does (some implementations clamp to D/2-1).
    """
    low = correction_dim(beta_fast, rotary_dim, base, original_window)
    high = correction_dim(beta_slow, rotary_dim, base, original_window)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    return max(low, 0), min(high, rotary_dim - 1)


def interpolated_share(low: float, high: float, num_frequencies: int) -> Tensor:
    """The ramp: 0 (kept) up to index `low`, 1 (interpolated) from `high`; fp32 [num_frequencies]."""
    width = high - low if high != low else 0.001  # an empty ramp becomes a step
    return ((torch.arange(num_frequencies, dtype=torch.float32) - low) / width).clamp(0, 1)


def inverse_frequencies(
    rotary_dim: int,
    base: float,
    factor: float,
    original_window: int,
    beta_fast: float = BETA_FAST,
    beta_slow: float = BETA_SLOW,
    truncate: bool = True,
) -> Tensor:
    """Kept and interpolated frequencies blended along the ramp ("NTK-by-parts"); fp32 [rotary_dim / 2]."""
    powers_F = plain.wavelength_powers(rotary_dim, base)
    low, high = correction_range(rotary_dim, base, original_window, beta_fast, beta_slow, truncate)
    kept_F = 1 - interpolated_share(low, high, rotary_dim // 2)
    # 1 - kept, not the share itself: the rounding then is that of transformers, bit for bit.
    return (1.0 / (factor * powers_F)) * (1 - kept_F) + (1.0 / powers_F) * kept_F


def attention_factor(
    factor: float, mscale: float | None = None, mscale_all_dim: float | None = None
) -> float:
    """0.1·ln s + 1, multiplied into both q and k through cos and sin (equation 22).

    With mscale and mscale_all_dim (DeepSeek), the ratio of (0.1·m·ln s + 1) for the two.
    """
    if mscale is None or mscale_all_dim is None:
        return _temperature(factor, 1.0)
    return _temperature(factor, mscale) / _temperature(factor, mscale_all_dim)


def _temperature(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


@dataclass(frozen=True)
class Yarn(ScalingMethod):
    """YaRN."""

    name = "yarn"
    formula = (
        "(1 − r_j)·θ_j + r_j·θ_j / s, with r_j rising from 0 to 1 between the indices that turn `beta_fast` "
        "and `beta_slow` times within L"
    )
    cos_sin_times = "0.1·ln s + 1"
    source = 'the same, section 3.2 ("NTK-by-parts") and equation 22'
    training = (
        "400 steps of 64 samples for 16 times the window, 200 more for 32 times (arXiv 2309.00071, section "
        "4.1); untrained it loses little where the factor is small"
    )
    hf_types = ("yarn",)
    starts_search = True

    attention_factor: float | None = number(above=0.0, at_most=MOST_ATTENTION_FACTOR)
    """Multiplied into cos and sin in place of the formula. None: the formula."""
    beta_fast: float | None = number(above=0.0)
    """Rotations within the original window above which a frequency is kept. None: 32."""
    beta_slow: float | None = number(above=0.0)
    """Rotations below which a frequency is interpolated entirely; at most beta_fast. None: 1."""
    mscale: float | None = number(above=0.0, at_most=MOST_ATTENTION_FACTOR)
    """DeepSeek's pair in place of the formula, with mscale_all_dim: both or neither. None: not used."""
    mscale_all_dim: float | None = number(above=0.0, at_most=MOST_ATTENTION_FACTOR)
    """The other of the pair."""
    truncate: bool | None = flag()
    """Whether the ramp's ends are whole indices, as in the released code. None: they are."""

    @classmethod
    def candidates(cls, rope: RopeNumbers) -> Sequence[Candidate]:
        """The defaults; published ramps; the ramp without the temperature; a factor above the ratio."""
        return (
            Candidate(source="arXiv 2309.00071: beta_fast 32, beta_slow 1"),
            Candidate({"beta_fast": 4.0}, source="UltraLong, 1M to 4M tokens (arXiv 2504.06214)"),
            Candidate(stretch=1.25, source="DeepSeek-V2: 40 for 32 times the window (arXiv 2405.04434)"),
            Candidate(
                {"attention_factor": 1.0}, source="NTK-by-parts: the ramp alone (arXiv 2309.00071, 3.2)"
            ),
            Candidate({"truncate": False}, source="gpt-oss: the ramp's ends are not rounded"),
        )

    def check(self, rope: RopeNumbers) -> None:
        """The ramp falls; DeepSeek's pair is whole."""
        fast, slow = self._betas()
        if fast < slow:
            raise ConfigError(
                "extra_args.beta_fast",
                required="beta_fast of at least beta_slow (defaults 32 and 1)",
                given=f"{fast:g} and {slow:g}",
                fix="swap the two",
            )
        pair = [name for name in ("mscale", "mscale_all_dim") if getattr(self, name) is not None]
        if len(pair) == 1:
            # Published code ignores a lone one without a word; a request must not be dropped silently.
            raise ConfigError(
                f"extra_args.{pair[0]}",
                required="both mscale and mscale_all_dim, or neither",
                given=f"only {pair[0]}",
                fix="give both, or attention_factor for the number itself",
            )

    def _betas(self) -> tuple[float, float]:
        fast = BETA_FAST if self.beta_fast is None else self.beta_fast
        return fast, BETA_SLOW if self.beta_slow is None else self.beta_slow

    def inverse_frequencies(self, rope: RopeNumbers, seq_len: int | None) -> Tensor:
        """See the function of this name."""
        numbers = rope.rotary_dim, rope.base, rope.factor, rope.original_window
        return inverse_frequencies(*numbers, *self._betas(), truncate=self.truncate is not False)

    def attention_scaling(self, rope: RopeNumbers, seq_len: int | None) -> float:
        """The explicit factor, else the formula."""
        if self.attention_factor is not None:
            return self.attention_factor
        return attention_factor(rope.factor, self.mscale, self.mscale_all_dim)

    def is_scaled(self, rope: RopeNumbers) -> bool:
        """An explicit attention factor acts even where the windows are alike."""
        return rope.factor != 1.0 or self.attention_factor not in (None, 1.0)

    def hf_window(self, rope: RopeNumbers) -> int:
        """The original window: readers before transformers 4.51 know no other place to read it."""
        return rope.original_window

    def to_hf_file(self, rope: RopeNumbers, entries: Mapping[str, Any]) -> dict[str, Any]:
        """The original window beside rope_scaling, and the attention factor as a number.

        Inside rope_scaling, transformers 4.51 to 4.5x would take max_position_embeddings over it for the
        factor. DeepSeek's pair is unknown before, and dropped without a word.
        """
        file = super().to_hf_file(rope, entries)
        original = "original_max_position_embeddings"
        file[original] = file["rope_scaling"].pop(original)
        if self.mscale is not None:
            file["rope_scaling"].setdefault("attention_factor", self.attention_scaling(rope, None))
        return file

    @classmethod
    def from_hf(cls, entries: HfRope) -> dict[str, Any]:
        """The windows may give the factor; readers take a zero for "not given" and a lone mscale for none."""
        original = entries.stated_original()
        windows = entries.windows(original or entries.window, entries.factor(optional=True))
        extra = entries.among(cls.argument_names())
        extra = {name: value for name, value in extra.items() if name == "truncate" or value}
        if not {"mscale", "mscale_all_dim"} <= set(extra):
            extra = {name: value for name, value in extra.items() if not name.startswith("mscale")}
        elif windows.get("factor") and extra.get("attention_factor") == attention_factor(
            windows["factor"], extra["mscale"], extra["mscale_all_dim"]
        ):
            del extra["attention_factor"]  # what to_hf_file adds, for readers who do not know the pair
        return {**windows, "extra_args": extra}
