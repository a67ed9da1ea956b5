"""Hugging Face's spelling of a context extension, read and written (transformers 5: `rope_parameters`).

| method | rope_type | max_position_embeddings | because |
|---|---|---|---|
| none | default | target window | |
| linear | linear | target window | readers take it as the maximum length |
| ntk | default, with the scaled base as rope_theta | target window | there is no type for it |
| dynamic | dynamic | original window | readers compute from it |
| yarn, llama3, longrope | the same name | target window | beside original_max_position_embeddings, always: |
| | | | where it is missing, readers silently take the extended window |
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nemo_pi.errors import CheckpointError, ConfigError
from nemo_pi.rope import llama3, longrope, ntk
from nemo_pi.rope.extra_args import VALID
from nemo_pi.rope.spec import ContextExtension

RECORD = "nemo_pi_extension"
"""Top-level config.json key with the whole spec: what Hugging Face has no words for (a static NTK base, the
window before direct fine-tuning). It counts only where it agrees with what Hugging Face itself reads."""

_TYPES = {
    "default": "none",
    "su": "longrope",
    **{name: name for name in VALID if name not in ("none", "ntk")},
}
_WITH_ORIGINAL = ("yarn", "llama3", "longrope")


def to_hf(spec: ContextExtension) -> dict[str, Any]:
    """Entries to put into config.json.

    The pairing of channels is not among them: Hugging Face's Llama rotates halves, so the exporter of an
    interleaved model must reorder the rows of q and k (see nemo_pi.rope.layout).

    Returns:
        `rope_parameters`, `max_position_embeddings` and, where these two cannot say it all, RECORD.
    """
    theta = spec.base
    if spec.method == "ntk":
        theta = ntk.scaled_base(spec.rotary_dim, spec.base, spec.factor)
    is_default = spec.method in ("none", "ntk")
    rope: dict[str, Any] = {"rope_type": "default" if is_default else spec.method, "rope_theta": theta}
    if not is_default:
        rope["factor"] = spec.factor
    if spec.rotary_percent != 1.0:
        rope["partial_rotary_factor"] = spec.rotary_percent
    if spec.method in _WITH_ORIGINAL:
        rope["original_max_position_embeddings"] = spec.original_window
    if spec.method == "llama3":
        rope["low_freq_factor"], rope["high_freq_factor"] = llama3.LOW_FREQ_FACTOR, llama3.HIGH_FREQ_FACTOR
    rope.update(spec.to_dict()["extra_args"])
    window = spec.original_window if spec.method == "dynamic" else spec.target_window
    entries = {"rope_parameters": rope, "max_position_embeddings": window}
    if spec.is_scaled or spec.target_window != spec.original_window:
        entries[RECORD] = spec.to_dict()
    return entries


def from_hf(config: Mapping[str, Any], head_dim: int) -> ContextExtension:
    """The extension a config.json describes; one that is already scaled comes back with its method.

    Args:
        config: the parsed config.json: `rope_parameters`, or the older `rope_scaling` (with `rope_type` or
            `type`) and top-level `rope_theta`.
        head_dim: channels of one attention head, before any partial rotary factor.

    Raises:
        CheckpointError: naming the entry of config.json that is missing, unknown or contradictory.
    """
    try:
        spec = _read(config, head_dim)
    except ConfigError as error:
        field = f"config.json ({error.field})"
        raise CheckpointError(field, required=error.required, given=error.given, mend=error.mend) from error
    return _recorded(config, spec) or spec


def _recorded(config: Mapping[str, Any], read: ContextExtension) -> ContextExtension | None:
    """The spec under RECORD, unless someone has edited config.json since."""
    record = config.get(RECORD)
    if not isinstance(record, Mapping):
        return None
    try:
        spec = ContextExtension.from_dict(record)
    except ConfigError:
        return None
    written, given = to_hf(spec), to_hf(read)
    same = all(written[key] == given[key] for key in ("rope_parameters", "max_position_embeddings"))
    # Whatever the trained layout was, the weights beside a config.json rotate halves.
    return replace(spec, interleaved=False) if same and spec.head_dim == read.head_dim else None


def _read(config: Mapping[str, Any], head_dim: int) -> ContextExtension:
    rope = _rope_entries(config)
    method = _method(rope)
    windows = _windows(config, rope, method)
    return ContextExtension.build(
        **windows,
        method=method,
        head_dim=head_dim,
        base=rope["rope_theta"],
        rotary_percent=rope["partial_rotary_factor"],
        extra_args=_extra_args(rope, method, windows),
    )


def _rope_entries(config: Mapping[str, Any]) -> dict[str, Any]:
    """rope_parameters or rope_scaling, completed from the top level; the inner entry wins over the outer."""
    inner = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(inner, Mapping) or any(isinstance(value, Mapping) for value in inner.values()):
        mend = "use a model whose layers share their positions"
        raise _unusable("rope_parameters", "one set of entries for all layers", inner, mend)
    rope = {key: value for key, value in inner.items() if value is not None}
    for key, default in (("rope_theta", 10000.0), ("partial_rotary_factor", 1.0)):
        outer = config.get(key)
        rope.setdefault(key, default if outer is None else outer)
    return rope


def _method(rope: Mapping[str, Any]) -> str:
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type not in _TYPES:
        mend = "convert the checkpoint to one of these, or use another model"
        raise _unusable("rope_type", "one of " + ", ".join(_TYPES), rope_type, mend)
    return _TYPES[rope_type]


def _windows(config: Mapping[str, Any], rope: Mapping[str, Any], method: str) -> dict[str, Any]:
    """original_window, target_window and factor, as transformers would use them."""
    window = config.get("max_position_embeddings")
    if not isinstance(window, int) or isinstance(window, bool) or window < 1:
        raise _unusable("max_position_embeddings", "the window in tokens", window, "write a whole number")
    # Phi-3 keeps it at the top level, where it wins over the inner one.
    outer, inner = (values.get("original_max_position_embeddings") for values in (config, rope))
    original = inner if outer is None else outer
    if method == "none":
        return {"original_window": window, "target_window": window}
    if method == "longrope":
        return {"original_window": original or window, "target_window": window}
    factor = _factor(rope)
    if method == "dynamic":
        original = window
    elif method == "linear" and original is None:
        original = _original_of_linear(config, window, factor)
    original = original or window
    if method == "llama3":
        return {"original_window": original, "target_window": max(window, original), "factor": factor}
    if factor is None:
        return {"original_window": original, "target_window": window}
    # Readers compute from factor and original window alone, and published configs often leave the other
    # window as it was: where the three disagree, the frequencies decide.
    agree = abs(original * factor - window) <= 0.5
    target = window if agree else round(original * factor)
    return {"original_window": original, "target_window": target, "factor": factor}


def _original_of_linear(config: Mapping[str, Any], window: int, factor: Any) -> int:
    """A linear config names one window: the extended one, unless max_sequence_length (Vicuna) denies it."""
    is_original = config.get("max_sequence_length") == window * factor and factor != 1
    return window if is_original else max(1, round(window / factor))


def _factor(rope: Mapping[str, Any]) -> float | None:
    """The factor as a float; only YaRN may leave it to the windows."""
    factor = rope.get("factor")
    if factor is None and rope.get("rope_type", rope.get("type")) == "yarn":
        return None
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 1 <= factor < math.inf:
        raise _unusable("factor", "a finite number of at least 1", factor, "add it to rope_parameters")
    return float(factor)


def _extra_args(rope: Mapping[str, Any], method: str, windows: Mapping[str, Any]) -> dict[str, Any]:
    extra = {name: rope[name] for name in VALID[method] if name in rope}
    if method == "yarn":
        # Readers take a zero for "not given", and use mscale only beside mscale_all_dim.
        extra = {name: value for name, value in extra.items() if name == "truncate" or value}
        if not {"mscale", "mscale_all_dim"} <= set(extra):
            extra = {name: value for name, value in extra.items() if not name.startswith("mscale")}
    elif method == "llama3":
        for name in VALID[method]:
            if name not in extra:
                raise _unusable(name, "a number", None, "add it to rope_parameters (Llama 3.1: 1 and 4)")
    elif method == "longrope" and rope.get("factor") is not None and "attention_factor" not in extra:
        # Here the factor only sets the temperature: where it is not the ratio of the windows, keep the number.
        original, factor = windows["original_window"], rope["factor"]
        if factor != windows["target_window"] / original:
            extra["attention_factor"] = longrope.attention_factor(factor, original)
    return extra


def _unusable(entry: str, required: str, given: Any, mend: str) -> CheckpointError:
    return CheckpointError(f"config.json ({entry})", required=required, given=repr(given), mend=mend)
