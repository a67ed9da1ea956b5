"""The families by name, ours and those of other packages, and the family of a config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemo_pi.errors import CheckpointError
from nemo_pi.families.base import Family
from nemo_pi.families.entries import unusable
from nemo_pi.families.llama import Llama
from nemo_pi.families.ministral3 import Ministral3
from nemo_pi.families.mistral import Mistral
from nemo_pi.families.qwen2 import Qwen2
from nemo_pi.families.qwen3 import Qwen3
from nemo_pi.families.shape import ModelShape
from nemo_pi.families.smollm3 import SmolLM3
from nemo_pi.plug_ins import PlugIns

_BUILT_IN = (Llama(), Mistral(), Qwen2(), Qwen3(), SmolLM3(), Ministral3())
_FAMILIES: dict[str, Family] = {family.name: family for family in _BUILT_IN}
PLUG_INS = PlugIns(
    "nemo_pi.families",
    kind="family",
    expected=Family,  # type: ignore[type-abstract]  # it is compared with, never made
    built_in=tuple(_FAMILIES),
    error=CheckpointError,
)
"""Families of other packages: classes, made without arguments."""

# Known to have no rotary positions, which says more to their users than that they are unknown.
_NOT_ROPE = {"gpt2", "gpt_neo", "gpt_bigcode", "opt", "bloom", "mpt", "bert", "roberta", "t5", "xglm", "ctrl"}
# What families of mixtures of experts call the number of experts.
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


def register(family: Family) -> None:
    """Makes a family known by its name; one of this name that is known already is replaced."""
    _FAMILIES[family.name] = family


def names() -> tuple[str, ...]:
    """The names of the families that can be had, ours first."""
    return tuple(dict.fromkeys([*_FAMILIES, *PLUG_INS.names()]))


def families() -> tuple[Family, ...]:
    """Our families and those that have been asked for, in the order they were registered."""
    return tuple(_FAMILIES.values())


def family_named(name: str) -> Family:
    """The family of this name.

    Raises:
        CheckpointError: it is not known, or the package that registers it is broken.
    """
    if name not in _FAMILIES:
        found = PLUG_INS.class_named(name)
        if found is None:
            raise _unknown("family", name)
        with PLUG_INS.blamed(name, f"{found.__name__} to be made without arguments"):
            register(found())
    return _FAMILIES[name]


def family_of(shape: ModelShape) -> Family:
    """The family of a shape.

    Raises:
        CheckpointError: it is not known here (a checkpoint of somebody else's family).
    """
    return family_named(shape.family)


def family_of_config(config: Mapping[str, Any]) -> Family:
    """The family of a config.json that this project can train.

    Raises:
        CheckpointError: no rotary embeddings, an unknown family, another head than a language model's,
            quantised weights.
    """
    name = config.get("model_type")
    name = name if isinstance(name, str) else None
    kind = config.get("position_embedding_type", "rope")
    if name in _NOT_ROPE or kind not in ("rope", "rotary", None) or config.get("alibi"):
        raise unusable(
            "model_type" if name in _NOT_ROPE else "position_embedding_type",
            "a model with rotary position embeddings (RoPE)",
            f"{name} with position_embedding_type {kind}" if name not in _NOT_ROPE else name,
            _another_model(),
        )
    if name is None or name not in names():
        raise _unknown("config.json: model_type", name, config)
    family = family_named(name)
    if config.get("quantization_config"):
        fix = "start from the checkpoint that it was quantised from"
        raise unusable("quantization_config", "full-precision weights", "quantised ones", fix)
    architectures = config.get("architectures")
    architectures = [family.architecture] if architectures in (None, []) else architectures
    # A text is refused as well: "in" would find the class in the middle of another one's name.
    if not isinstance(architectures, list) or family.architecture not in architectures:
        fix = "start from the language model itself"
        raise unusable("architectures", family.architecture, architectures, fix)
    return family


def _unknown(field: str, name: Any, config: Mapping[str, Any] | None = None) -> CheckpointError:
    required = "one of " + ", ".join(names())
    if config is not None and any(config.get(key) for key in _EXPERTS):
        required += " (dense models; mixtures of experts are not supported)"
    shown = repr(name) if isinstance(name, str) else name
    return CheckpointError(field, required=required, given=shown, fix=_another_model())


def _another_model() -> str:
    classes = ", ".join(family.architecture for family in _FAMILIES.values())
    return f"start from a checkpoint of one of these: {classes}; or {PLUG_INS.how_to_get()}"
