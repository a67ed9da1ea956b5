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
    extra = {name: rope[name] for name in VALID[method] if rope.get(name) is not None}
    if method == "yarn" and not (extra.get("mscale") and extra.get("mscale_all_dim")):
        # Readers ignore a lone one, or a zero.
        extra = {name: value for name, value in extra.items() if not name.startswith("mscale")}
    if method == "longrope":
        _keep_temperature(rope, extra, windows)
    return ContextExtension.build(
        **windows,
        method=method,
        head_dim=head_dim,
        base=rope["rope_theta"],
        rotary_percent=rope["partial_rotary_factor"],
        extra_args=extra,
    )


def _rope_entries(config: Mapping[str, Any]) -> dict[str, Any]:
    """rope_parameters or rope_scaling, completed from the top level; the inner entry wins over the outer."""
    inner = config.get("rope_parameters") or config.get("rope_scaling") or {}
    field = "config.json (rope_parameters)"
    if not isinstance(inner, Mapping) or any(isinstance(value, Mapping) for value in inner.values()):
        required, mend = "one set of entries for all layers", "use a model whose layers share their positions"
        raise CheckpointError(field, required=required, given=repr(inner), mend=mend)
    rope = {key: value for key, value in inner.items() if value is not None}
    rope.setdefault("rope_theta", config.get("rope_theta") or 10000.0)
    share = config.get("partial_rotary_factor")
    rope.setdefault("partial_rotary_factor", 1.0 if share is None else share)
    return rope


def _method(rope: Mapping[str, Any]) -> str:
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type not in _TYPES:
        required = "one of " + ", ".join(_TYPES)
        mend = "convert the checkpoint to one of these, or use another model"
        raise CheckpointError("config.json (rope_type)", required=required, given=repr(rope_type), mend=mend)
    return _TYPES[rope_type]


def _windows(config: Mapping[str, Any], rope: Mapping[str, Any], method: str) -> dict[str, Any]:
    """original_window, target_window and factor, as transformers would use them."""
    window = config.get("max_position_embeddings")
    if not isinstance(window, int):
        required, mend = "the window in tokens", "add max_position_embeddings to config.json"
        raise CheckpointError(
            "config.json (max_position_embeddings)", required=required, given=window, mend=mend
        )
    factor = rope.get("factor")
    if method == "none":
        return {"original_window": window, "target_window": window, "factor": None}
    if method in _WITH_ORIGINAL:
        # Phi-3 keeps it at the top level, where it wins over the inner one.
        original = config.get("original_max_position_embeddings") or rope.get(
            "original_max_position_embeddings"
        )
        return _windows_with_original(original or window, window, factor, method)
    if not isinstance(factor, (int, float)) or isinstance(factor, bool) or not factor >= 1:
        required, mend = "a number of at least 1", "add factor to rope_parameters"
        raise CheckpointError("config.json (factor)", required=required, given=repr(factor), mend=mend)
    if method == "dynamic":
        return {"original_window": window, "target_window": round(window * factor), "factor": factor}
    return {"original_window": round(window / factor), "target_window": window, "factor": factor}


def _windows_with_original(original: int, window: int, factor: Any, method: str) -> dict[str, Any]:
    if method == "llama3":
        return {"original_window": original, "target_window": max(window, original), "factor": factor}
    if method == "yarn" and factor is not None:
        # Readers compute from factor and original alone; published configs often leave the window unextended.
        return {"original_window": original, "target_window": round(original * factor), "factor": factor}
    return {"original_window": original, "target_window": max(window, original), "factor": None}


def _keep_temperature(rope: Mapping[str, Any], extra: dict[str, Any], windows: Mapping[str, Any]) -> None:
    """A longrope factor that is not the ratio of the windows only sets the temperature: keep that number."""
    factor, original = rope.get("factor"), windows["original_window"]
    if (
        factor is not None
        and "attention_factor" not in extra
        and factor != windows["target_window"] / original
    ):
        extra["attention_factor"] = longrope.attention_factor(factor, original)
