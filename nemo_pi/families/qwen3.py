"""Qwen3 (dense): query and key are normalised head by head before they are rotated; no biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from nemo_pi.families.qwen2 import Qwen2
from nemo_pi.families.shape import ModelShape


class Qwen3(Qwen2):
    """model_type qwen3."""

    name = "qwen3"
    architecture = "Qwen3ForCausalLM"
    fixed: ClassVar[Mapping[str, Any]] = {**Qwen2.fixed, "qkv_bias": False, "qk_norm": True}
    defaults: ClassVar[Mapping[str, Any]] = {**Qwen2.defaults, "head_dim": 128, "attention_bias": False}

    def shape_entries(self, shape: ModelShape) -> dict[str, Any]:
        """Entries of config.json that say what `shape` says."""
        return {**super().shape_entries(shape), "attention_bias": False}
