"""Reading a Hugging Face config's rotary entries, as transformers 5 computes with them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from nemo_pi.errors import CheckpointError
from nemo_pi.rope import longrope
from nemo_pi.rope.extra_args import VALID
from nemo_pi.rope.spec import ContextExtension

WITH_ORIGINAL = ("yarn", "llama3", "longrope")
"""Methods whose entries carry original_max_position_embeddings."""

_TYPES = {
    "default": "none",
    "su": "longrope",
    **{name: name for name in VALID if name not in ("none", "ntk")},
}


def read_extension(config: Mapping[str, Any], head_dim: int) -> ContextExtension:
    """What Hugging Face's own entries say, `rope_parameters` or the older `rope_scaling`.

    Args:
        config: the parsed config.json.
        head_dim: channels of one attention head, before any partial rotary factor (which is applied once).

    Raises:
        CheckpointError: naming the entry that is missing, unknown or malformed.
        ConfigError: for values that contradict each other.
    """
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
    if method == "none":
        return {"original_window": window, "target_window": window}
    original = _stated_original(config, rope)
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


def _stated_original(config: Mapping[str, Any], rope: Mapping[str, Any]) -> int | None:
    """original_max_position_embeddings; Phi-3 keeps it at the top level, where it wins over the inner one."""
    entry = "original_max_position_embeddings"
    outer = config.get(entry)
    original = rope.get(entry) if outer is None else outer
    if original is not None and (isinstance(original, bool) or not isinstance(original, int) or original < 1):
        raise _unusable(entry, "the pretrained window in tokens", original, "write a whole number")
    return original


def _original_of_linear(config: Mapping[str, Any], window: int, factor: Any) -> int:
    """A linear config names one window: the extended one, unless max_sequence_length (Vicuna) denies it."""
    is_original = config.get("max_sequence_length") == window * factor and factor != 1
    return window if is_original else max(1, round(window / factor))


def _factor(rope: Mapping[str, Any]) -> float | None:
    """The factor as a float; YaRN and LongRoPE may leave it to the windows."""
    factor = rope.get("factor")
    if factor is None and _method(rope) in ("yarn", "longrope"):
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
    elif method == "longrope" and "attention_factor" not in extra:
        # Here a factor only sets the temperature: if it is not the ratio of the windows, keep what it gives.
        original, factor = windows["original_window"], _factor(rope)
        if factor is not None and factor != windows["target_window"] / original:
            extra["attention_factor"] = longrope.attention_factor(factor, original)
    return extra


def _unusable(entry: str, required: str, given: Any, mend: str) -> CheckpointError:
    return CheckpointError(f"config.json ({entry})", required=required, given=repr(given), mend=mend)
