"""config.json in our terms: which family, what sizes, how positions are made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemo_pi.arch.shape import ModelShape
from nemo_pi.errors import CheckpointError
from nemo_pi.rope.hf import RECORD, from_hf
from nemo_pi.rope.spec import ContextExtension

ARCHITECTURES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}

_OTHER_MODEL = "start from a Llama or Mistral checkpoint (" + ", ".join(ARCHITECTURES.values()) + ")"
_CORRECT = "correct this entry of config.json, or copy the file again"

# What transformers assumes where config.json is silent.
_DEFAULT_GROUPS: dict[str, int | None] = {"llama": None, "mistral": 8}
_DEFAULT_SLIDING_WINDOW: dict[str, int | None] = {"llama": None, "mistral": 4096}
_DEFAULT_EPSILON = 1e-6

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
        raise _unusable("model_type", "one of " + ", ".join(ARCHITECTURES), family)
    for key in ("attention_bias", "mlp_bias"):
        if config.get(key):
            raise _unusable(key, "false (biases are not supported)", config[key])
    if config.get("hidden_act", "silu") not in ("silu", "swish"):
        raise _unusable("hidden_act", "silu", config["hidden_act"])
    if config.get("quantization_config"):
        raise _unusable("quantization_config", "full-precision weights", "quantised ones")
    architectures = config.get("architectures") or [ARCHITECTURES[family]]
    if ARCHITECTURES[family] not in architectures:
        raise _unusable("architectures", ARCHITECTURES[family], architectures)
    return str(family)


def shape_from_config(config: Mapping[str, Any]) -> ModelShape:
    """Sizes from config.json, with transformers' defaults where it is silent.

    Raises:
        CheckpointError: an architecture that is not supported, or sizes missing or impossible.
    """
    family = check_architecture(config)
    hidden, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
    groups = config.get("num_key_value_heads", _DEFAULT_GROUPS[family])
    groups = heads if groups is None else groups
    if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1 or heads % groups:
        raise _unusable("num_key_value_heads", f"a divisor of num_attention_heads {heads}", groups, _CORRECT)
    if config.get("head_dim") is None and hidden % heads:
        raise _unusable("hidden_size", f"a multiple of num_attention_heads {heads}", hidden, _CORRECT)
    return ModelShape(
        num_layers=_size(config, "num_hidden_layers"),
        hidden_size=hidden,
        ffn_hidden_size=_size(config, "intermediate_size"),
        num_attention_heads=heads,
        num_query_groups=groups,
        head_dim=hidden // heads if config.get("head_dim") is None else _size(config, "head_dim"),
        vocab_size=_size(config, "vocab_size"),
        norm_epsilon=_epsilon(config),
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        family=family,
        sliding_window=_sliding_window(config, family),
    )


def _epsilon(config: Mapping[str, Any]) -> float:
    value = config.get("rms_norm_eps", _DEFAULT_EPSILON)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
        raise _unusable("rms_norm_eps", "a small positive number", value, _CORRECT)
    return float(value)


def _sliding_window(config: Mapping[str, Any], family: str) -> int | None:
    # Llama has no sliding window whatever its config.json says; transformers ignores the key there.
    if family == "llama":
        return None
    if config.get("sliding_window", "absent") is None:
        return None
    return _size(config, "sliding_window") if "sliding_window" in config else _DEFAULT_SLIDING_WINDOW[family]


def extension_from_config(config: Mapping[str, Any], shape: ModelShape) -> ContextExtension:
    """How the checkpoint's positions are made.

    Raises:
        CheckpointError: rotary values that are missing or contradict each other.
    """
    extension = from_hf(config, shape.head_dim)
    if extension.rotary_percent != 1.0:
        # transformers' Llama and Mistral ignore it or fail on it, according to the type of scaling.
        raise _unusable("partial_rotary_factor", "1.0 (whole heads)", extension.rotary_percent)
    return extension


def window_source(config: Mapping[str, Any], extension: ContextExtension) -> str:
    """The key of config.json that `extension.original_window` was read from."""
    record = config.get(RECORD)
    if isinstance(record, Mapping) and {**record, "interleaved": False} == extension.to_dict():
        return f"{RECORD}.original_window"
    if extension.is_scaled:
        for key in ("original_max_position_embeddings", "rope_parameters", "rope_scaling"):
            entry = config.get(key)
            if isinstance(entry, int):
                return key
            if isinstance(entry, Mapping) and "original_max_position_embeddings" in entry:
                return f"{key}.original_max_position_embeddings"
    divided = extension.original_window != config["max_position_embeddings"]
    return "max_position_embeddings" + (" / factor" if divided else "")


def _size(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _unusable(key, "a positive integer", value, _CORRECT)
    return value


def _unusable(key: str, required: str, given: Any, mend: str = _OTHER_MODEL) -> CheckpointError:
    shown = repr(given) if isinstance(given, str) else given  # a number in quotes must look like one
    return CheckpointError(f"config.json: {key}", required=required, given=shown, mend=mend)
