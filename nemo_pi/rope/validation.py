"""Checks on the values of a context extension; each error names the field of ContextExtension."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

from nemo_pi.errors import ConfigError, nearest


def did_you_mean(name: Any, valid: Iterable[str], also_called: Mapping[str, str] | None = None) -> str:
    """A fix that puts the nearest valid name first; `also_called` has other names for some of them."""
    names, given = list(valid), str(name).lower()
    other = (also_called or {}).get(given)
    near = other if other in names else nearest(given, names)
    listing = ", ".join(names) or "none at all"
    return f"did you mean {near!r}? Valid: {listing}" if near else f"choose one of: {listing}"


def as_mapping(field: str, values: Any) -> dict[str, Any]:
    """A dict of `values`; None is the empty one."""
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise ConfigError(
            field, required="a mapping of names to values", given=repr(values), fix="write key: value"
        )
    return {str(key): value for key, value in values.items()}


MOST_TOKENS = 2**63 - 1
"""The largest window: position ids are int64."""
# fp32's largest number: torch casts a base to it. And its slowest normal frequency, in tokens per radian.
_FP32_MAX, _SLOWEST = (2 - 2**-23) * 2.0**127, 2.0**126


def is_finite(value: Any) -> TypeGuard[float]:
    """Whether `value` is a number that a float can hold; booleans and strings are none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of more than 308 digits
        return False


def check_number(
    field: str,
    value: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
) -> float:
    """`value` as a finite float within its limits; booleans and strings are not numbers."""
    required = "a finite number"
    if above is not None:
        required += f" above {above:g}"
    if at_least is not None:
        required += f" of at least {at_least:g}"
    if at_most is not None:
        required += f" and at most {at_most:g}"
    if not is_finite(value):
        fix = "write it without quotes" if isinstance(value, str) else "write a plain number such as 2.0"
        raise ConfigError(field, required=required, given=repr(value), fix=fix)
    if (above is not None and value <= above) or (at_least is not None and value < at_least):
        raise ConfigError(field, required=required, given=repr(value), fix="choose a larger value")
    if at_most is not None and value > at_most:
        raise ConfigError(field, required=required, given=repr(value), fix="choose a smaller value")
    return float(value)


def check_flag(field: str, value: Any) -> bool:
    """`value` if it is a boolean."""
    if not isinstance(value, bool):
        raise ConfigError(
            field, required="true or false", given=repr(value), fix="write true or false, unquoted"
        )
    return value


def check_window(field: str, value: Any) -> None:
    """A window is a whole number of tokens, at least one."""
    if isinstance(value, bool) or not isinstance(value, int):
        fix = "write a whole number such as 4096, without quotes or a decimal point"
        raise ConfigError(field, required="a whole number of tokens", given=repr(value), fix=fix)
    if value < 1:
        fix = "write the window's length in tokens"
        raise ConfigError(field, required="at least 1 token", given=value, fix=fix)
    if value > MOST_TOKENS:
        fix = "write the window's length in tokens"
        raise ConfigError(field, required="at most 2^63 - 1 tokens", given="more", fix=fix)


def check_base(base: Any) -> None:
    """RoPE's base exceeds 1, otherwise the frequencies do not fall."""
    check_number("base", base, above=1.0)


def check_frequencies(field: str, base: float, rotary_dim: int, divisor: float = 1.0) -> None:
    """The slowest pair's frequency, b^(-(D-2)/D) / divisor, is a normal fp32 number.

    Below that it keeps few digits or none: pairs would stand still, and a model lose its order of tokens.

    Args:
        field: the field of ContextExtension that makes it so slow.
        base: what is computed with.
        rotary_dim: D.
        divisor: by what the frequencies are divided besides.
    """
    exponent = (rotary_dim - 2) / rotary_dim
    # A head of one pair has the frequency 1 whatever the base: even inf ** 0 is 1.
    if (base <= _FP32_MAX or rotary_dim == 2) and base**exponent * divisor <= _SLOWEST:
        return
    largest = min(_FP32_MAX, _SLOWEST ** (1 / exponent)) if exponent else math.inf
    by = f" and divided by {divisor:.3g}" if divisor != 1 else ""
    fix = "choose a smaller `factor`, with a lower `target_window` where it follows from that"
    if field.endswith("_factor"):
        fix = "correct the factors found for this model: those published lie below 1,000"
    if field.endswith("base"):
        fix = f"choose a base of at most 1e{math.floor(math.log10(largest))}"
    raise ConfigError(
        field,
        required="frequencies that fp32 can hold (from 1.2e-38 radians per token on)",
        given=f"slower ones: base {base:.3g} over {rotary_dim} channels{by}",
        fix=fix,
    )


def check_rotary_dim(head_dim: Any, rotary_percent: Any) -> None:
    """The rotated channels come in pairs."""
    if isinstance(head_dim, bool) or not isinstance(head_dim, int) or head_dim < 1:
        fix = "give the channels of one head, for instance hidden_size / num_attention_heads"
        raise ConfigError("head_dim", required="a positive whole number", given=repr(head_dim), fix=fix)
    share = check_number("rotary_percent", rotary_percent, above=0.0)
    if share > 1.0:
        fix = "write a share such as 0.5, not a percentage such as 50"
        raise ConfigError("rotary_percent", required="at most 1", given=repr(rotary_percent), fix=fix)
    rotary_dim = int(head_dim * share)
    if rotary_dim < 2 or rotary_dim % 2:
        raise ConfigError(
            "rotary_percent",
            required="an even rotary dimension",
            given=_rotated(rotary_dim, head_dim, share),
            fix="choose `.head_dim` and `.rotary_percent` whose product is an even number of at least 2",
        )


def check_enough_rotated(head_dim: int, rotary_percent: float, method: str, least: int) -> None:
    """A method may need more than one rotated pair, as NTK's exponent D/(D-2) does."""
    rotary_dim = int(head_dim * rotary_percent)
    if rotary_dim < least:
        raise ConfigError(
            "method",
            required=f"a rotary dimension above {least - 2} for {method}",
            given=_rotated(rotary_dim, head_dim, rotary_percent),
            fix=f"choose `.method`: linear, or rotate at least {least} channels",
        )


def _rotated(rotary_dim: int, head_dim: int, share: float) -> str:
    return f"{rotary_dim} (`.head_dim` {head_dim} × `.rotary_percent` {share:g}, rounded down)"


def check_factor(factor: Any) -> None:
    """A factor lengthens: a finite number of at least 1."""
    required = "a finite number of at least 1 (target window / original window), or null to derive it"
    if not is_finite(factor):
        fix = (
            "write it unquoted, e.g. 16.0"
            if isinstance(factor, str)
            else "write a number such as 16.0, or null"
        )
        raise ConfigError("factor", required=required, given=repr(factor), fix=fix)
    if factor < 1:
        fix = "write a number such as 16.0, or null"
        if factor > 0:
            fix = f"write {1 / factor:g} or null; {1 / factor:g}, its inverse, lengthens by as much"
        raise ConfigError("factor", required=required, given=repr(factor), fix=fix)


def check_not_shorter(original: int, target: int) -> None:
    """A target window never lies below the original one."""
    if target < original:
        fix = f"raise it: `target_window`={original} or more, or correct `original_window`"
        raise ConfigError(
            "target_window", required=f"at least the original window of {original}", given=target, fix=fix
        )


def check_factor_is_ratio(original: int, target: int, factor: float) -> None:
    """factor × original window is the target window, to the nearest token."""
    product = factor * original
    if abs(product - target) > 0.5:
        shown = f"{factor:.10g} × {original} = {product:.10g}, but `target_window` is {target}"
        fix = f"`factor`=null to derive {target / original:.10g}"
        if product < MOST_TOKENS:
            fix += f"; or `target_window`={round(product)}"
        raise ConfigError("factor", required="factor × original window = target window", given=shown, fix=fix)
