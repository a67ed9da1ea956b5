"""What each extension method takes besides its factor (YAML: model.pos_scaling_extra_args)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nemo_pi.errors import ConfigError
from nemo_pi.rope.validation import check_flag, check_number, did_you_mean

FIELD = "model.pos_scaling_extra_args"

VALID: dict[str, tuple[str, ...]] = {
    "none": (),
    "linear": (),
    "ntk": (),
    "dynamic": (),
    "yarn": ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    "llama3": ("high_freq_factor", "low_freq_factor"),
    "longrope": ("attention_factor", "long_factor", "short_factor"),
}
"""Names each method knows."""

DEFAULTS: dict[str, dict[str, float]] = {"llama3": {"high_freq_factor": 4.0, "low_freq_factor": 1.0}}
"""Numbers filled in where none is given: Llama 3.1's own. Other methods' defaults are part of the method."""

_ELSEWHERE = {
    "factor": "model.pos_scaling_factor",
    "original_max_position_embeddings": "model.original_max_position_embeddings",
    "rope_theta": "model.rotary_base",
    "partial_rotary_factor": "model.rotary_percentage",
    "rope_type": "model.pos_scaling_type",
    "type": "model.pos_scaling_type",
}


def validate_extra_args(
    method: str, extra: Mapping[str, Any], num_frequencies: int
) -> tuple[tuple[str, Any], ...]:
    """Check and normalise extra arguments.

    Args:
        method: a valid extension method.
        extra: names to values; None means "not given".
        num_frequencies: half the rotary dimension, the length of LongRoPE's lists.

    Returns:
        Sorted (name, value) pairs; numbers as float, lists as tuples of float.

    Raises:
        ConfigError: for an unknown name, a missing one, or a value that is wrong alone or against another.
    """
    for name in extra:
        if name not in VALID[method]:
            _refuse_unknown(method, name)
    given = {
        name: _normalise(name, value, num_frequencies) for name, value in extra.items() if value is not None
    }
    given = {**DEFAULTS.get(method, {}), **given}
    if method == "yarn":
        _check_yarn(given)
    elif method == "llama3":
        _check_llama3(given)
    elif method == "longrope":
        _check_longrope(given, num_frequencies)
    return tuple(sorted(given.items()))


def _refuse_unknown(method: str, name: str) -> None:
    mend = f"write {_ELSEWHERE[name]} instead" if name in _ELSEWHERE else did_you_mean(name, VALID[method])
    required = f"a name that {method} knows"
    raise ConfigError(f"{FIELD}.{name}", required=required, given=repr(name), mend=mend)


def _normalise(name: str, value: Any, num_frequencies: int) -> Any:
    field = f"{FIELD}.{name}"
    if name == "truncate":
        return check_flag(field, value)
    if name in ("short_factor", "long_factor"):
        return _factor_list(field, value, num_frequencies)
    return check_number(field, value, above=0.0)


def _factor_list(field: str, value: Any, num_frequencies: int) -> tuple[float, ...]:
    is_list = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    if not is_list or len(value) != num_frequencies:
        required = f"a list of {num_frequencies} numbers (half the rotary dimension)"
        given = f"{len(value)} of them" if is_list else repr(value)
        raise ConfigError(field, required=required, given=given, mend="give one factor per frequency")
    return tuple(check_number(f"{field}[{i}]", entry, above=0.0) for i, entry in enumerate(value))


def _check_yarn(given: Mapping[str, Any]) -> None:
    fast, slow = given.get("beta_fast", 32.0), given.get("beta_slow", 1.0)
    if fast < slow:
        field, required = f"{FIELD}.beta_fast", "beta_fast of at least beta_slow (defaults 32 and 1)"
        raise ConfigError(field, required=required, given=f"{fast:g} and {slow:g}", mend="swap the two")
    pair = [name for name in ("mscale", "mscale_all_dim") if name in given]
    if len(pair) == 1:
        # Published code ignores a lone one without a word; a request must not be dropped silently.
        required = "both mscale and mscale_all_dim, or neither"
        mend = "give both, or attention_factor for the number itself"
        raise ConfigError(f"{FIELD}.{pair[0]}", required=required, given=f"only {pair[0]}", mend=mend)


def _check_llama3(given: Mapping[str, Any]) -> None:
    low, high = given["low_freq_factor"], given["high_freq_factor"]
    if high <= low:
        field, required = (
            f"{FIELD}.high_freq_factor",
            "high_freq_factor above low_freq_factor (defaults 4 and 1)",
        )
        raise ConfigError(field, required=required, given=f"{high:g} and {low:g}", mend="swap the two")


def _check_longrope(given: Mapping[str, Any], num_frequencies: int) -> None:
    for name in ("short_factor", "long_factor"):
        if name not in given:
            required = f"a list of {num_frequencies} numbers (half the rotary dimension)"
            mend = f"add {name}: [...] with the factors found for this model"
            raise ConfigError(f"{FIELD}.{name}", required=required, given="nothing", mend=mend)
