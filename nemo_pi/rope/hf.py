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
from nemo_pi.rope import ntk
from nemo_pi.rope.hf_read import WITH_ORIGINAL, read_extension
from nemo_pi.rope.spec import ContextExtension

RECORD = "nemo_pi_extension"
"""Top-level config.json key with the whole spec: what Hugging Face has no words for (a static NTK base, the
window before direct fine-tuning). It counts only where it agrees with what Hugging Face itself reads.

transformers keeps it when it saves a model again. A tool that drops it leaves the positions as they are, but
a static NTK model then looks like one that was trained with its larger base at the whole window: it counts
as unscaled, and extending it starts from there. For NTK that is exact (bases multiply)."""

_ENTRIES = {
    "model.rotary_base": "rope_theta",
    "model.rotary_percentage": "partial_rotary_factor",
    "model.kv_channels": "head_dim",
    "model.pos_scaling_factor": "factor",
}
"""YAML keys whose entry in config.json has another name."""


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
    if spec.method in WITH_ORIGINAL:
        rope["original_max_position_embeddings"] = spec.original_window
    rope.update(spec.to_dict()["extra_args"])
    window = spec.original_window if spec.method == "dynamic" else spec.target_window
    entries: dict[str, Any] = {"rope_parameters": rope, "max_position_embeddings": window}
    if spec.method != "none" or spec.target_window != spec.original_window:
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
        spec = read_extension(config, head_dim)
    except ConfigError as error:
        field = f"config.json ({_ENTRIES.get(error.field, error.field.rpartition('.')[2])})"
        mend = "correct this entry of config.json"
        raise CheckpointError(field, required=error.required, given=error.given, mend=mend) from error
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
