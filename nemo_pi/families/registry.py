"""The families by name, ours and those of other packages, and the family of a config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemo_pi.errors import CheckpointError
from nemo_pi.families.baichuan import Baichuan
from nemo_pi.families.base import Family
from nemo_pi.families.entries import unusable
from nemo_pi.families.gemma3 import Gemma3
from nemo_pi.families.glm4 import Glm4
from nemo_pi.families.gpt_neox import GPTNeoX
from nemo_pi.families.gptj import GPTJ
from nemo_pi.families.granite import Granite
from nemo_pi.families.internlm2 import InternLm2
from nemo_pi.families.llama import Llama
from nemo_pi.families.ministral3 import Ministral3
from nemo_pi.families.mistral import Mistral
from nemo_pi.families.nemotron import Nemotron
from nemo_pi.families.olmo2 import Olmo2
from nemo_pi.families.olmo3 import Olmo3
from nemo_pi.families.phi import Phi
from nemo_pi.families.phi3 import Phi3
from nemo_pi.families.qwen2 import Qwen2
from nemo_pi.families.qwen3 import Qwen3
from nemo_pi.families.refused import missing_for
from nemo_pi.families.shape import ModelShape
from nemo_pi.families.smollm3 import SmolLM3
from nemo_pi.families.stablelm import StableLM
from nemo_pi.plug_ins import PlugIns

_BUILT_IN = (
    Llama(),
    Mistral(),
    Qwen2(),
    Qwen3(),
    SmolLM3(),
    Ministral3(),
    Phi3(),
    Granite(),
    Olmo2(),
    Olmo3(),
    Gemma3(),
    Glm4(),
    Baichuan(),
    InternLm2(),
    Phi(),
    GPTNeoX(),
    GPTJ(),
    StableLM(),
    Nemotron(),
)
_FAMILIES: dict[str, Family] = {family.name: family for family in _BUILT_IN}
PLUG_INS = PlugIns(
    "nemo_pi.families",
    kind="family",
    expected=Family,  # type: ignore[type-abstract]  # it is compared with, never made
    built_in=tuple(_FAMILIES),
    error=CheckpointError,
)
"""Families of other packages: classes, made without arguments."""


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
    if name is None or name not in names():
        raise _unknown("config.json: model_type", name, missing_for(config))
    if kind not in ("rope", "rotary", None) or config.get("alibi"):
        raise unusable(
            "position_embedding_type",
            "a model with rotary position embeddings (RoPE)",
            f"{name} with position_embedding_type {kind}",
            _another_model(),
        )
    family = family_named(name)
    if config.get("quantization_config"):
        fix = "start from the checkpoint that it was quantised from"
        raise unusable("quantization_config", "full-precision weights", "quantised ones", fix)
    if not config.get("is_causal", True):
        # transformers lifts the causal mask of any of its classes by this entry: models made for embeddings.
        fix = "start from a language model, whose tokens see those before them alone"
        raise unusable("is_causal", "true, or absent", config["is_causal"], fix)
    architectures = config.get("architectures")
    architectures = [family.architecture] if architectures in (None, []) else architectures
    classes = (family.architecture, *family.also_called)
    # A text is refused as well: "in" would find the class in the middle of another one's name.
    if not isinstance(architectures, list) or not any(name in architectures for name in classes):
        fix = "start from the language model itself"
        raise unusable("architectures", family.architecture, architectures, fix)
    return family


def _unknown(field: str, name: Any, missing: str | None = None) -> CheckpointError:
    required = "one of " + ", ".join(names()) + (f" ({name}: {missing})" if missing else "")
    shown = repr(name) if isinstance(name, str) else name
    return CheckpointError(field, required=required, given=shown, fix=_another_model())


def _another_model() -> str:
    classes = ", ".join(family.architecture for family in _FAMILIES.values())
    return f"start from a checkpoint of one of these: {classes}; or {PLUG_INS.how_to_get()}"
