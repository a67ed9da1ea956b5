"""config.json of an export: sizes and positions as they are now, everything else as the source had it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nemo_pi.arch.shape import ModelShape
from nemo_pi.checkpoint.hf.config import ARCHITECTURES, extension_from_config, shape_from_config
from nemo_pi.checkpoint.hf.source import HuggingFaceSource
from nemo_pi.errors import CheckpointError
from nemo_pi.rope.hf import RECORD, to_hf
from nemo_pi.rope.spec import ContextExtension

_ROPE_KEYS = (
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "partial_rotary_factor",
    "max_position_embeddings",
    "original_max_position_embeddings",
    RECORD,
)


def check_exportable(extension: ContextExtension) -> None:
    """Refuses what Hugging Face's Llama and Mistral cannot compute; ask before training, not after.

    Raises:
        CheckpointError: rotary on a part of each head (they always rotate whole heads).
    """
    if extension.rotary_percent != 1.0:
        raise CheckpointError(
            "model.rotary_percentage",
            required="1.0 (Llama and Mistral in transformers rotate whole heads)",
            given=extension.rotary_percent,
            mend="keep the model as a distributed checkpoint, or train it with rotary_percentage 1.0",
        )


def build_config(
    shape: ModelShape, extension: ContextExtension, source: HuggingFaceSource | None, dtype: str | None
) -> dict[str, Any]:
    """config.json of an export.

    Args:
        shape: sizes; they replace the source's only where they differ.
        extension: positions. Where the source says the same already, its own spelling is kept.
        source: what the weights came from; all other fields of its config.json are preserved.
        dtype: name of the weights' storage dtype; None where each tensor keeps the source's.
    """
    if source is None:
        config: dict[str, Any] = {"architectures": [ARCHITECTURES[shape.family]], "model_type": shape.family}
    else:
        config = dict(source.config)
    if source is None or shape_from_config(source.config) != shape:
        config.update(_shape_fields(shape))
    as_stored = replace(extension, interleaved=False)
    if source is None or extension_from_config(source.config, shape) != as_stored:
        for key in _ROPE_KEYS:
            config.pop(key, None)
        config.update(_rope_fields(as_stored))
    if dtype is not None and (source is None or source.dtype != dtype):
        config.pop("torch_dtype", None)
        config["dtype"] = dtype
    return config


def _rope_fields(extension: ContextExtension) -> dict[str, Any]:
    """What to_hf says, and again in the spelling of readers older than transformers 5.

    Those look at rope_theta and rope_scaling only and would otherwise drop the scaling silently;
    transformers 5 reads the same from either.
    """
    fields = to_hf(extension)
    rope = fields["rope_parameters"]
    fields["rope_theta"] = rope["rope_theta"]
    if rope["rope_type"] != "default":
        fields["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}
    return fields


def _shape_fields(shape: ModelShape) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "attention_bias": False,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.ffn_hidden_size,
        "mlp_bias": False,
        "num_attention_heads": shape.num_attention_heads,
        "num_hidden_layers": shape.num_layers,
        "num_key_value_heads": shape.num_query_groups,
        "rms_norm_eps": shape.norm_epsilon,
        "tie_word_embeddings": shape.tied_embeddings,
        "vocab_size": shape.vocab_size,
    }
    if shape.family == "mistral":
        del fields["attention_bias"], fields["mlp_bias"]
        fields["sliding_window"] = shape.sliding_window
    return fields
