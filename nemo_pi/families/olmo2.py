"""OLMo 2: norms stand behind attention and MLP, and those of query and key span all heads; no biases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from nemo_pi.families.kind import LayerKind
from nemo_pi.families.llama import Llama
from nemo_pi.families.shape import ModelShape


class Olmo2(Llama):
    """model_type olmo2."""

    name = "olmo2"
    architecture = "Olmo2ForCausalLM"
    by_features = False  # its models have nothing in their shape that Qwen3's have not
    fixed: ClassVar[Mapping[str, Any]] = {**Llama.fixed, "qk_norm": True}
    defaults: ClassVar[Mapping[str, Any]] = {
        "num_key_value_heads": None,
        "head_dim": None,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "attention_bias": False,
    }

    def shape_entries(self, shape: ModelShape) -> dict[str, Any]:
        """Entries of config.json that say what `shape` says."""
        entries = super().shape_entries(shape)
        del entries["mlp_bias"]  # OLMo 2 has no such option
        return entries

    def layer_kind(self, shape: ModelShape) -> LayerKind:
        """Norms behind attention and MLP alone; query and key normalised over all heads."""
        return replace(super().layer_kind(shape), norms_before=False, norms_after=True, qk_norm_whole=True)
