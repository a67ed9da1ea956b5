"""config.json to our terms and back: sizes, positions, and everything else left as it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nemo_pi.arch.shape import ModelShape
from nemo_pi.errors import CheckpointError
from nemo_pi.rope.hf import RECORD, from_hf, to_hf
from nemo_pi.rope.spec import ContextExtension

ARCHITECTURES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}

# What transformers assumes where config.json is silent.
_DEFAULT_GROUPS: dict[str, int | None] = {"llama": None, "mistral": 8}
_DEFAULT_SLIDING_WINDOW: dict[str, int | None] = {"llama": None, "mistral": 4096}
_DEFAULT_EPSILON = 1e-6

_ROPE_KEYS = (
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "partial_rotary_factor",
    "max_position_embeddings",
    "original_max_position_embeddings",
    RECORD,
)

_NOT_ROPE = {"gpt2", "gpt_neo", "gpt_bigcode", "opt", "bloom", "mpt", "bert", "roberta", "t5", "xglm", "ctrl"}


def check_architecture(config: Mapping[str, Any]) -> str:
    """The family (llama or mistral) of a config.json that this project can train.

    Raises:
        CheckpointError: another architecture, no rotary embeddings, biases, quantised weights.
    """
    family = config.get("model_type")
    kind = config.get("position_embedding_type", "rope")
    if family in _NOT_ROPE or kind not in ("rope", "rotary", None) or config.get("alibi"):
        raise _unusable(
            "model_type" if family in _NOT_ROPE else "position_embedding_type",
            "a model with rotary position embeddings (RoPE)",
            f"{family} with position_embedding_type {kind}" if family not in _NOT_ROPE else family,
        )
    if family not in ARCHITECTURES:
        raise _unusable("model_type", "one of " + ", ".join(ARCHITECTURES), repr(family))
    for key in ("attention_bias", "mlp_bias"):
        if config.get(key):
            raise _unusable(key, "false (biases are not supported)", config[key])
    if config.get("hidden_act", "silu") not in ("silu", "swish"):
        raise _unusable("hidden_act", "silu", config["hidden_act"])
    if config.get("quantization_config"):
        raise _unusable("quantization_config", "full-precision weights", "quantised ones")
    return str(family)


def shape_from_config(config: Mapping[str, Any]) -> ModelShape:
    """Sizes from config.json, with transformers' defaults where it is silent.

    Raises:
        CheckpointError: an architecture that is not supported, or sizes missing or impossible.
    """
    family = check_architecture(config)
    hidden, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
    groups = config.get("num_key_value_heads", _DEFAULT_GROUPS[family])
    if config.get("head_dim") is None and hidden % heads:
        raise _unusable("hidden_size", f"a multiple of num_attention_heads {heads}", hidden)
    shape = ModelShape(
        num_layers=_size(config, "num_hidden_layers"),
        hidden_size=hidden,
        ffn_hidden_size=_size(config, "intermediate_size"),
        num_attention_heads=heads,
        num_query_groups=heads if groups is None else int(groups),
        head_dim=hidden // heads if config.get("head_dim") is None else _size(config, "head_dim"),
        vocab_size=_size(config, "vocab_size"),
        norm_epsilon=float(config.get("rms_norm_eps", _DEFAULT_EPSILON)),
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        family=family,
        sliding_window=_sliding_window(config, family),
    )
    if shape.num_query_groups < 1 or heads % shape.num_query_groups:
        raise _unusable("num_key_value_heads", f"a divisor of num_attention_heads {heads}", groups)
    return shape


def _sliding_window(config: Mapping[str, Any], family: str) -> int | None:
    # Llama has no sliding window whatever its config.json says; transformers ignores the key there.
    if family == "llama":
        return None
    window = config.get("sliding_window", _DEFAULT_SLIDING_WINDOW[family])
    return None if window is None else int(window)


def extension_from_config(config: Mapping[str, Any], shape: ModelShape) -> ContextExtension:
    """How the checkpoint's positions are made.

    Raises:
        CheckpointError: rotary values that are missing or contradict each other.
    """
    return from_hf(config, shape.head_dim)


def window_source(config: Mapping[str, Any]) -> str:
    """The key of config.json that the original window was read from."""
    for key in ("rope_parameters", "rope_scaling"):
        if (config.get(key) or {}).get("original_max_position_embeddings") is not None:
            return f"{key}.original_max_position_embeddings"
    if config.get("original_max_position_embeddings") is not None:
        return "original_max_position_embeddings"
    return "max_position_embeddings"


def build_config(
    shape: ModelShape, extension: ContextExtension, source: Mapping[str, Any] | None, dtype: str
) -> dict[str, Any]:
    """config.json of an export.

    Args:
        shape: sizes; they replace the source's only where they differ.
        extension: positions. Where the source says the same already, its own spelling is kept.
        source: config.json that the weights came from; all its other fields are preserved.
        dtype: name of the weights' storage dtype, such as `bfloat16`.
    """
    if source is None:
        config: dict[str, Any] = {"architectures": [ARCHITECTURES[shape.family]], "model_type": shape.family}
    else:
        config = dict(source)
    if source is None or shape_from_config(source) != shape:
        config.update(_shape_fields(shape))
    as_stored = replace(extension, interleaved=False)
    if source is None or extension_from_config(source, shape) != as_stored:
        for key in _ROPE_KEYS:
            config.pop(key, None)
        config.update(_rope_fields(as_stored))
    if source is None or _dtype_of(source) != dtype:
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


def _dtype_of(config: Mapping[str, Any]) -> str | None:
    value = config.get("dtype", config.get("torch_dtype"))
    return None if value is None else str(value).removeprefix("torch.")


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


def _size(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _unusable(key, "a positive integer", value)
    return value


def _unusable(key: str, required: str, given: Any) -> CheckpointError:
    return CheckpointError(
        f"config.json: {key}",
        required=required,
        given=given,
        mend="start from a Llama or Mistral checkpoint (" + ", ".join(ARCHITECTURES.values()) + ")",
    )
