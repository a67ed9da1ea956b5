"""The model's shape: the checkpoint's where there is one, the YAML's where there is none, never a blend."""

from __future__ import annotations

from typing import Any

from nemo_pi.arch.shape import ModelShape
from nemo_pi.arch.summary import CheckpointSummary
from nemo_pi.config.merge import nearest
from nemo_pi.config.schema import ModelConfig
from nemo_pi.errors import ConfigError

# YAML key → field of ModelShape. NeMo's names on the left.
SHAPE_KEYS = {
    "num_layers": "num_layers",
    "hidden_size": "hidden_size",
    "ffn_hidden_size": "ffn_hidden_size",
    "num_attention_heads": "num_attention_heads",
    "num_query_groups": "num_query_groups",
    "kv_channels": "head_dim",
    "vocab_size": "vocab_size",
    "layernorm_epsilon": "norm_epsilon",
    "share_embeddings_and_output_weights": "tied_embeddings",
}
_REQUIRED_FROM_SCRATCH = ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "vocab_size")
_FIXED: dict[str, tuple[Any, ...]] = {
    "position_embedding_type": ("rope",),
    "normalization": ("rmsnorm",),
    "activation": ("fast-swiglu", "swiglu"),
    "bias": (False,),
}


def resolve_shape(model: ModelConfig, summary: CheckpointSummary | None) -> ModelShape:
    """The shape to build.

    Raises:
        ConfigError: a shape key that disagrees with the checkpoint, is missing without one, or is not a
            size a model can have; an architecture other than RoPE, RMSNorm, SwiGLU without biases.
    """
    _check_architecture(model)
    shape = _shape_from_yaml(model) if summary is None else _shape_of_checkpoint(model, summary)
    _check_sizes(shape)
    return shape


def _check_architecture(model: ModelConfig) -> None:
    for key, allowed in _FIXED.items():
        given = getattr(model, key)
        if given not in allowed:
            words = " or ".join(str(value).lower() for value in allowed)
            why = (
                "only rotary positions can be interpolated"
                if key.startswith("position")
                else "the only kind built"
            )
            raise ConfigError(
                f"model.{key}",
                required=f"{words} ({why})",
                given=repr(given),
                mend=f"model.{key}={allowed[0]}",
            )


def _shape_of_checkpoint(model: ModelConfig, summary: CheckpointSummary) -> ModelShape:
    for key, field in SHAPE_KEYS.items():
        given, found = getattr(model, key), getattr(summary.shape, field)
        if given is not None and given != found:
            raise ConfigError(
                f"model.{key}",
                required=f"{found}, as in the {summary.kind} checkpoint {summary.path}",
                given=given,
                mend=f"model.{key}=null takes the checkpoint's; or restore another checkpoint",
            )
    return summary.shape


def _shape_from_yaml(model: ModelConfig) -> ModelShape:
    for key in _REQUIRED_FROM_SCRATCH:
        if getattr(model, key) is None:
            raise ConfigError(
                f"model.{key}",
                required="a value, as there is no checkpoint to take it from",
                given="null",
                mend=f"give model.{key}, or a checkpoint in restore_from_path",
            )
    given = {
        field: getattr(model, key) for key, field in SHAPE_KEYS.items() if getattr(model, key) is not None
    }
    given.setdefault("num_query_groups", given["num_attention_heads"])
    if "head_dim" not in given:
        given["head_dim"] = _derived_head_dim(given["hidden_size"], given["num_attention_heads"])
    return ModelShape(**given)


def _derived_head_dim(hidden_size: int, num_heads: int) -> int:
    if num_heads < 1 or hidden_size % num_heads:
        raise ConfigError(
            "model.num_attention_heads",
            required=f"a divisor of hidden_size={hidden_size} while kv_channels is null",
            given=num_heads,
            mend="give model.kv_channels, or change one of the two",
        )
    return hidden_size // num_heads


def _check_sizes(shape: ModelShape) -> None:
    for key, field in SHAPE_KEYS.items():
        value = getattr(shape, field)
        if not isinstance(value, bool) and not value > 0:
            raise ConfigError(f"model.{key}", required="more than 0", given=value, mend="give its real size")
    if shape.num_attention_heads % shape.num_query_groups:
        raise ConfigError(
            "model.num_query_groups",
            required=f"a divisor of num_attention_heads={shape.num_attention_heads}",
            given=shape.num_query_groups,
            mend="give the number of key/value heads; null means one per query head",
        )


def check_choice(key: str, given: str, allowed: tuple[str, ...]) -> None:
    """Refuse a name that is not allowed, with the nearest that is."""
    if given not in allowed:
        found = nearest(given, allowed)
        mend = f"did you mean {found}?" if found else f"choose one of {', '.join(allowed)}"
        raise ConfigError(key, required=f"one of {', '.join(allowed)}", given=repr(given), mend=mend)
