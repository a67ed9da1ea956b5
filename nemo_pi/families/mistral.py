"""Mistral 7B, Mistral-Nemo: a Llama of which every layer may look back a sliding window only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from nemo_pi.families.entries import size
from nemo_pi.families.llama import PLAIN_LAYERS, Llama
from nemo_pi.families.shape import ModelShape


class Mistral(Llama):
    """model_type mistral."""

    name = "mistral"
    architecture = "MistralForCausalLM"
    fixed: ClassVar[Mapping[str, Any]] = {
        **PLAIN_LAYERS,
        "full_attention_layers": (),
        "unrotated_layers": (),
    }
    defaults: ClassVar[Mapping[str, Any]] = {
        "num_key_value_heads": 8,
        "head_dim": None,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "sliding_window": 4096,
    }

    def read_windows(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """One window for all layers; null means full attention, silence 4,096."""
        window = None if config["sliding_window"] is None else size(config, "sliding_window")
        return {"sliding_window": window}

    def shape_entries(self, shape: ModelShape) -> dict[str, Any]:
        """Entries of config.json that say what `shape` says."""
        entries = super().shape_entries(shape)
        del entries["attention_bias"], entries["mlp_bias"]  # Mistral has no such options
        return {**entries, "sliding_window": shape.sliding_window}
