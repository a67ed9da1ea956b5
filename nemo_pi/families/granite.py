"""Granite 3 and 4 (dense): a Llama whose embedding, attention, residual and logits are multiplied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from nemo_pi.families.entries import positive
from nemo_pi.families.llama import Llama
from nemo_pi.families.shape import ModelShape

_MULTIPLIERS = ("embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling")


class Granite(Llama):
    """model_type granite."""

    name = "granite"
    architecture = "GraniteForCausalLM"
    fixed: ClassVar[Mapping[str, Any]] = {
        key: value for key, value in Llama.fixed.items() if key not in _MULTIPLIERS
    }
    defaults: ClassVar[Mapping[str, Any]] = {**Llama.defaults, **dict.fromkeys(_MULTIPLIERS, 1.0)}

    def read_shape(self, config: Mapping[str, Any]) -> ModelShape:
        """As Llama's; the usual 1/√head_dim is no multiplier, as in a shape that comes from a YAML."""
        shape = super().read_shape(config)
        usual = shape.attention_multiplier == shape.head_dim**-0.5
        return replace(shape, attention_multiplier=None) if usual else shape

    def read_features(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Four numbers; an attention_multiplier that is missing is 1, not 1/√head_dim."""
        return {key: positive(config, key) for key in _MULTIPLIERS}

    def shape_entries(self, shape: ModelShape) -> dict[str, Any]:
        """Entries of config.json that say what `shape` says."""
        given = {key: getattr(shape, key) for key in _MULTIPLIERS}
        if shape.attention_multiplier is None:
            given["attention_multiplier"] = shape.head_dim**-0.5
        return {**super().shape_entries(shape), **given}
