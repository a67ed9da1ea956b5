"""The model's shape: the checkpoint's where there is one, the YAML's where there is none, never a blend.

The table of keys is read in both directions: a run's YAML into a shape, and a shape into the YAML that a
.nemo file carries.
"""

from __future__ import annotations

from typing import Any

from nemo_pi.checkpoint.summary import CheckpointSummary
from nemo_pi.config.schema import ModelConfig
from nemo_pi.errors import ConfigError, nearest
from nemo_pi.families.base import Family
from nemo_pi.families.registry import PLUG_INS, families, family_named, names
from nemo_pi.families.shape import MOST, MOST_OF, ModelShape
from nemo_pi.kernels.activation import FUNCTIONS

# YAML key → field of ModelShape. NeMo's and Megatron's names on the left, where they have one.
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
    "family": "family",
    "add_qkv_bias": "qkv_bias",
    "qk_layernorm": "qk_norm",
    "sliding_window": "sliding_window",
    "full_attention_layers": "full_attention_layers",
    "unrotated_layers": "unrotated_layers",
    "activation": "activation",
    "bias": "mlp_bias",
    "attention_output_bias": "proj_bias",
    "use_parallel_residual": "parallel_residual",
    "embedding_multiplier": "embedding_multiplier",
    "attention_multiplier": "attention_multiplier",
    "residual_multiplier": "residual_multiplier",
    "logits_scaling": "logits_scaling",
}
_REQUIRED_FROM_SCRATCH = ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "vocab_size")
# NeMo's words for activations, and those of Hugging Face.
_ACTIVATIONS = {
    "fast-swiglu": "silu",
    "swiglu": "silu",
    "swish": "silu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "squared-relu": "relu2",
}
# What a model has whose family is not named: kind of norm and of activation, and no biases.
_UNNAMED: dict[str, tuple[Any, ...]] = {
    "normalization": ("rmsnorm",),
    "activation": ("fast-swiglu", "swiglu"),
    "bias": (False,),
}


def resolve_shape(model: ModelConfig, summary: CheckpointSummary | None) -> ModelShape:
    """The shape to build.

    Raises:
        ConfigError: a shape key that disagrees with the checkpoint, is missing without one, or is not a
            size a model can have; positions other than RoPE, or a kind of norm, activation or bias that its
            family has not.
    """
    if model.position_embedding_type != "rope":
        raise ConfigError(
            "model.position_embedding_type",
            required="rope (only rotary positions can be interpolated)",
            given=repr(model.position_embedding_type),
            fix="model.position_embedding_type=rope",
        )
    if summary is None and model.family is None:
        _check_unnamed(model)
    shape = _shape_from_yaml(model) if summary is None else _shape_of_checkpoint(model, summary)
    _check_sizes(shape)
    _check_norm(model, shape)
    if summary is None:
        _check_can_be_said(shape)
    return shape


def _check_can_be_said(shape: ModelShape) -> None:
    """Refuse features that the family's config.json has no words for: its export would say others."""
    family = family_named(shape.family)
    said = family.read_shape(family.shape_entries(shape))
    keys = [key for key, field in SHAPE_KEYS.items() if getattr(said, field) != getattr(shape, field)]
    if keys:
        raise ConfigError(
            ", ".join(f"model.{key}" for key in keys),
            required="what a config.json of the family can say: "
            + ", ".join(f"{key}={_as_yaml(getattr(said, SHAPE_KEYS[key]))}" for key in keys),
            given=", ".join(f"{key}={_as_yaml(getattr(shape, SHAPE_KEYS[key]))}" for key in keys),
            fix="give those values, or leave the keys null",
        )


def _check_unnamed(model: ModelConfig) -> None:
    for key, allowed in _UNNAMED.items():
        given = getattr(model, key)
        if given is not None and given not in allowed:
            words = " or ".join(str(value).lower() for value in allowed)
            raise ConfigError(
                f"model.{key}",
                required=f"{words} where no family is named",
                given=repr(given),
                fix=f"model.{key}=null, or name the family in model.family: {', '.join(names())}",
            )


def _check_norm(model: ModelConfig, shape: ModelShape) -> None:
    kind = family_named(shape.family).layer_kind(shape)
    found = kind.norm.lower() + ("1p" if kind.zero_centered else "")
    if model.normalization not in (None, found):
        raise ConfigError(
            "model.normalization",
            required=f"{found}, as every model of the family {shape.family} has",
            given=repr(model.normalization),
            fix="model.normalization=null",
        )


def _shape_of_checkpoint(model: ModelConfig, summary: CheckpointSummary) -> ModelShape:
    for key, field in SHAPE_KEYS.items():
        given, found = _given(model, key), getattr(summary.shape, field)
        if given is not None and given != found:
            raise ConfigError(
                f"model.{key}",
                required=f"{found}, as in the {summary.kind} checkpoint {summary.path}",
                given=given,
                fix=f"model.{key}=null takes the checkpoint's; or restore another checkpoint",
            )
    return summary.shape


def _shape_from_yaml(model: ModelConfig) -> ModelShape:
    missing = [f"model.{key}" for key in _REQUIRED_FROM_SCRATCH if getattr(model, key) is None]
    if missing:
        # Where no size at all is given, it is the checkpoint that was forgotten.
        forgotten = len(missing) == len(_REQUIRED_FROM_SCRATCH)
        raise ConfigError(
            "restore_from_path" if forgotten else ", ".join(missing),
            required="a value, as there is no checkpoint to take it from"
            if not forgotten
            else "a checkpoint",
            given="null"
            if not forgotten
            else f"none, nor the sizes to build a model from ({missing[0]}, ...)",
            fix=f"restore_from_path=/path/to/checkpoint, or give {', '.join(missing)}",
        )
    given = {field: _given(model, key) for key, field in SHAPE_KEYS.items()}
    given = {field: value for field, value in given.items() if value is not None}
    given.setdefault("num_query_groups", given["num_attention_heads"])
    if "head_dim" not in given:
        given["head_dim"] = _derived_head_dim(given["hidden_size"], given["num_attention_heads"])
    if "activation" in given:
        check_choice("model.activation", given["activation"], tuple(FUNCTIONS))
    family = _family_with(given)
    return ModelShape(**{**family.usual, **family.fixed, **given, "family": family.name})


def _given(model: ModelConfig, key: str) -> Any:
    value = getattr(model, key)
    if key == "activation":
        return _ACTIVATIONS.get(value, value)
    return tuple(value) if isinstance(value, list) else value


def _family_with(given: dict[str, Any]) -> Family:
    """The family that is named, else the first whose models can have what is given."""
    if "family" in given:
        check_choice("model.family", given["family"], names())
        PLUG_INS.check_claims(given["family"], "model.family")
        family_named(given["family"])  # another package's is known once it has been asked for
    named = given.get("family")
    able = [
        family
        for family in families()
        if (family.by_features or family.name == named)
        and all(given.get(field, value) == value for field, value in family.fixed.items())
    ]
    chosen = [family for family in able if named in (None, family.name)]
    if chosen:
        return chosen[0]
    keys = {field: key for key, field in SHAPE_KEYS.items()}
    features = sorted({field for family in families() for field in family.fixed} & set(given))
    wanted = ", ".join(f"{keys[field]}: {_as_yaml(given[field])}" for field in features)
    raise ConfigError(
        "model.family",
        required=f"one that can have {wanted}",
        given=given.get("family", f"none of {', '.join(names())} can"),
        fix=f"model.family={able[0].name}, or leave the others null" if able else "leave one of them null",
    )


def _as_yaml(value: Any) -> str:
    return str(list(value) if isinstance(value, tuple) else value).lower()


def shape_section(shape: ModelShape) -> dict[str, Any]:
    """The keys of a model section that say what `shape` says."""
    values = {key: getattr(shape, field) for key, field in SHAPE_KEYS.items()}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def _derived_head_dim(hidden_size: int, num_heads: int) -> int:
    if num_heads < 1 or hidden_size % num_heads:
        raise ConfigError(
            "model.num_attention_heads",
            required=f"a divisor of hidden_size={hidden_size} while kv_channels is null",
            given=num_heads,
            fix="give model.kv_channels, or change one of the two",
        )
    return hidden_size // num_heads


def _check_sizes(shape: ModelShape) -> None:
    for key, field in SHAPE_KEYS.items():
        value = getattr(shape, field)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not value > 0:
            raise ConfigError(f"model.{key}", required="more than 0", given=value, fix="give its real size")
        most = MOST_OF.get(field, MOST)
        if isinstance(value, int) and value > most:
            raise ConfigError(
                f"model.{key}", required=f"at most {most:,}", given=value, fix="give its real size"
            )
    if shape.num_attention_heads % shape.num_query_groups:
        raise ConfigError(
            "model.num_query_groups",
            required=f"a divisor of num_attention_heads={shape.num_attention_heads}",
            given=shape.num_query_groups,
            fix="give the number of key/value heads; null means one per query head",
        )
    layers = shape.full_attention_layers
    if layers and (shape.sliding_window is None or not set(layers) < set(range(shape.num_layers))):
        raise ConfigError(
            "model.full_attention_layers",
            required=f"some layers of 0 to {shape.num_layers - 1} beside a sliding_window for the others",
            given=list(layers),
            fix="correct the list, or leave it null and sliding_window too where all layers attend fully",
        )
    if shape.unrotated_layers and not set(shape.unrotated_layers) < set(range(shape.num_layers)):
        raise ConfigError(
            "model.unrotated_layers",
            required=f"some layers of 0 to {shape.num_layers - 1}; one at least must be rotated",
            given=list(shape.unrotated_layers),
            fix="correct the list, or leave it null where all layers are rotated",
        )


def check_choice(key: str, given: str, allowed: tuple[str, ...]) -> None:
    """Refuse a name that is not allowed, with the nearest that is."""
    if given not in allowed:
        found = nearest(given, allowed)
        fix = f"did you mean {found}?" if found else f"choose one of {', '.join(allowed)}"
        raise ConfigError(key, required=f"one of {', '.join(allowed)}", given=repr(given), fix=fix)
