"""The one map from a field of ContextExtension to what users call it: a YAML key, an entry of config.json.

Errors of this package name the fields themselves, in backticks where they stand in a sentence
(`` `.factor` `` is the short form). Whoever read the values from a YAML or a config.json lets them leave
through `NemoPiError.respelled` with one of these maps.
"""

from __future__ import annotations

YAML_KEYS = {
    "original_window": "model.original_max_position_embeddings",
    "target_window": "model.max_position_embeddings",
    "method": "model.pos_scaling_type",
    "factor": "model.pos_scaling_factor",
    "head_dim": "model.kv_channels",
    "base": "model.rotary_base",
    "rotary_percent": "model.rotary_percentage",
    "interleaved": "model.rotary_interleaved",
    "extra_args": "model.pos_scaling_extra_args",
    "sliding": "model.sliding_rotary",
    "query_scale": "model.query_scaling",
}
"""Field → key of a run's YAML."""

HF_ENTRIES = {
    "original_window": "original_max_position_embeddings",
    "target_window": "max_position_embeddings",
    "method": "rope_type",
    "factor": "factor",
    "head_dim": "head_dim",
    "base": "rope_theta",
    "rotary_percent": "partial_rotary_factor",
    "sliding": "rope_parameters.sliding_attention",
}
"""Field → entry of config.json."""

ELSEWHERE = {
    **{entry: field for field, entry in HF_ENTRIES.items() if entry != "head_dim"},
    "type": "method",
}
"""Hugging Face's name of what people look for among a method's arguments → the field that carries it."""
