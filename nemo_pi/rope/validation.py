"""Checks on the values of a context extension; each error names the YAML key that carries the value."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from nemo_pi.errors import ConfigError

METHODS = ("none", "linear", "ntk", "dynamic", "yarn", "llama3", "longrope")
"""Extension methods: none, Position Interpolation, static and dynamic NTK, YaRN, Llama 3.1's, LongRoPE."""

TARGET = "model.max_position_embeddings"
ORIGINAL = "model.original_max_position_embeddings"
FACTOR = "model.pos_scaling_factor"
METHOD = "model.pos_scaling_type"


_ALSO_CALLED = {
    "pi": "linear",
    "interpolation": "linear",
    "position_interpolation": "linear",
    "default": "none",
    "rope": "none",
    "su": "longrope",
}


def did_you_mean(name: Any, valid: Iterable[str]) -> str:
    """A mend that puts the nearest valid name first."""
    names, given = list(valid), str(name).lower()
    other = _ALSO_CALLED.get(given)
    near = [other] if other in names else get_close_matches(given, names, n=1, cutoff=0.5)
    listing = ", ".join(names) or "none at all"
    return f"did you mean {near[0]!r}? Valid: {listing}" if near else f"choose one of: {listing}"


def as_mapping(field: str, values: Any) -> dict[str, Any]:
    """A dict of `values`; None is the empty one."""
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise ConfigError(
            field, required="a mapping of names to values", given=repr(values), mend="write key: value"
        )
    return {str(key): value for key, value in values.items()}


def check_number(
    field: str, value: Any, *, above: float | None = None, at_least: float | None = None
) -> float:
    """`value` as a finite float within its limits; booleans and strings are not numbers."""
    required = "a finite number"
    if above is not None:
        required += f" above {above:g}"
    if at_least is not None:
        required += f" of at least {at_least:g}"
    wrong_type = isinstance(value, bool) or not isinstance(value, (int, float))
    if wrong_type or not math.isfinite(value):
        mend = "write it without quotes" if isinstance(value, str) else "write a plain number such as 2.0"
        raise ConfigError(field, required=required, given=repr(value), mend=mend)
    if (above is not None and value <= above) or (at_least is not None and value < at_least):
        raise ConfigError(field, required=required, given=repr(value), mend="choose a larger value")
    return float(value)


def check_flag(field: str, value: Any) -> bool:
    """`value` if it is a boolean."""
    if not isinstance(value, bool):
        raise ConfigError(
            field, required="true or false", given=repr(value), mend="write true or false, unquoted"
        )
    return value


def check_window(field: str, value: Any) -> None:
    """A window is a whole number of tokens, at least one."""
    if isinstance(value, bool) or not isinstance(value, int):
        mend = "write a whole number such as 4096, without quotes or a decimal point"
        raise ConfigError(field, required="a whole number of tokens", given=repr(value), mend=mend)
    if value < 1:
        mend = "write the window's length in tokens"
        raise ConfigError(field, required="at least 1 token", given=value, mend=mend)


def check_method(method: Any) -> None:
    """One of METHODS, exactly as written there."""
    if method not in METHODS:
        required = "one of " + ", ".join(METHODS)
        raise ConfigError(METHOD, required=required, given=repr(method), mend=did_you_mean(method, METHODS))


def check_base(base: Any) -> None:
    """RoPE's base exceeds 1, otherwise the frequencies do not fall."""
    check_number("model.rotary_base", base, above=1.0)


def check_rotary_dim(head_dim: Any, rotary_percent: Any, method: str) -> None:
    """The rotated channels come in pairs; NTK's exponent D/(D-2) needs more than one pair."""
    if isinstance(head_dim, bool) or not isinstance(head_dim, int) or head_dim < 1:
        mend = "give the channels of one head, for instance hidden_size / num_attention_heads"
        raise ConfigError(
            "model.kv_channels", required="a positive whole number", given=repr(head_dim), mend=mend
        )
    share = check_number("model.rotary_percentage", rotary_percent, above=0.0)
    if share > 1.0:
        mend = "write a share such as 0.5, not a percentage such as 50"
        raise ConfigError(
            "model.rotary_percentage", required="at most 1", given=repr(rotary_percent), mend=mend
        )
    rotary_dim = int(head_dim * share)
    given = f"{rotary_dim} (kv_channels {head_dim} × rotary_percentage {share:g}, rounded down)"
    if rotary_dim < 2 or rotary_dim % 2:
        mend = "choose kv_channels and rotary_percentage whose product is an even number of at least 2"
        raise ConfigError(
            "model.rotary_percentage", required="an even rotary dimension", given=given, mend=mend
        )
    if method in ("ntk", "dynamic") and rotary_dim < 4:
        mend = "choose pos_scaling_type: linear, or rotate at least 4 channels"
        raise ConfigError(METHOD, required=f"a rotary dimension above 2 for {method}", given=given, mend=mend)


def check_factor(factor: Any) -> None:
    """A factor lengthens: a finite number of at least 1."""
    required = "a finite number of at least 1 (target window / original window), or null to derive it"
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not math.isfinite(factor):
        mend = (
            "write it unquoted, e.g. 16.0"
            if isinstance(factor, str)
            else "write a number such as 16.0, or null"
        )
        raise ConfigError(FACTOR, required=required, given=repr(factor), mend=mend)
    if factor < 1:
        near = f"{1 / factor:g} or null" if factor > 0 else "a number such as 16.0, or null"
        raise ConfigError(FACTOR, required=required, given=repr(factor), mend=f"write {near}")


def check_not_shorter(original: int, target: int) -> None:
    """A target window never lies below the original one."""
    if target < original:
        mend = f"raise {TARGET} to at least {original}, or correct {ORIGINAL}"
        raise ConfigError(
            TARGET, required=f"at least the original window of {original}", given=target, mend=mend
        )


def check_windows_agree(original: int, target: int, method: str, factor: float) -> None:
    """Factor and windows say the same.

    factor × original must be the target to the nearest token, save for two methods: `none`, which does not
    scale (factor 1 at any target: direct fine-tuning), and `llama3`, whose factor divides low frequencies
    and is published apart from the windows (8,192 → 131,072 with 8 in Llama 3.1, with 32 in Llama 3.2).
    """
    check_not_shorter(original, target)
    if method == "none" and factor != 1:
        mend = f"write {FACTOR}: null for direct fine-tuning, or choose {METHOD}: linear"
        raise ConfigError(FACTOR, required=f"1 or null with {METHOD} none", given=f"{factor:.10g}", mend=mend)
    product = factor * original
    if method not in ("none", "llama3") and abs(product - target) > 0.5:
        shown = f"{factor:.10g} × {original} = {product:.10g}, but {TARGET} is {target}"
        mend = f"write {FACTOR}: null to derive {target / original:.10g}, or {TARGET}: {round(product)}"
        raise ConfigError(FACTOR, required="factor × original window = target window", given=shown, mend=mend)
