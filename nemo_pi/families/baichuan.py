"""Baichuan-7B: a Llama with query, key and value in one tensor and keys of its own in config.json.

transformers has no class for it. The one beside its weights is never run: the model is a Llama, and is
exported as one unless its own architecture is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from nemo_pi.errors import CheckpointError
from nemo_pi.families.entries import flag, unusable
from nemo_pi.families.llama import Llama
from nemo_pi.families.shape import ModelShape
from nemo_pi.families.table import LayerNames
from nemo_pi.rope.hf import RECORD
from nemo_pi.rope.spec import ContextExtension

_BASE = 10000.0  # a constant of its class
_NORMALISED_VOCABULARY = 125_696  # Baichuan 2, by which vLLM knows it, too


class Baichuan(Llama):
    """model_type baichuan."""

    name = "baichuan"
    architecture = "BaichuanForCausalLM"
    also_called = ("BaiChuanForCausalLM",)
    remote_code = True
    by_features = False
    layer_names = LayerNames(qkv=("self_attn.W_pack",) * 3)
    defaults: ClassVar[Mapping[str, Any]] = {
        "num_key_value_heads": None,
        "head_dim": None,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    }
    rope_keys = (*Llama.rope_keys, "model_max_length")

    def read_shape(self, config: Mapping[str, Any]) -> ModelShape:
        """As Llama's; its class has no grouped queries and no head_dim of its own."""
        shape = super().read_shape(config)
        if shape.num_query_groups != shape.num_attention_heads:
            given = shape.num_query_groups
            raise unusable("num_key_value_heads", "none: its class has no grouped queries", given)
        if shape.head_dim * shape.num_attention_heads != shape.hidden_size:
            raise unusable("head_dim", "hidden_size / num_attention_heads", shape.head_dim)
        return shape

    def check_variant(self, config: Mapping[str, Any]) -> None:
        """Refuses the 13B, whose attention has ALiBi, and Baichuan 2, whose output layer is normalised."""
        super().check_variant(config)
        fix = "start from Baichuan-7B, or from a model of another family"
        unplaced = config.get("max_position_embeddings") is None and "model_max_length" in config
        if unplaced or config.get("hidden_size") == 5120:
            required = "baichuan with rotary embeddings, which is the 7B"
            raise unusable("model_type", required, "a Baichuan of 13B, whose attention has ALiBi", fix)
        if config.get("vocab_size") == _NORMALISED_VOCABULARY or "z_loss_weight" in config:
            required = "baichuan with an output layer as it is stored, which is Baichuan-7B"
            given = "Baichuan 2, whose output layer is normalised row by row"
            raise unusable("model_type", required, given, fix)
        if flag(config, "tie_word_embeddings"):
            raise unusable("tie_word_embeddings", "false, as its class ties none", True)

    def read_extension(self, config: Mapping[str, Any], shape: ModelShape) -> ContextExtension:
        """Plain RoPE over max_position_embeddings: its class reads nothing else."""
        own = ("max_position_embeddings", RECORD)
        return super().read_extension({key: config[key] for key in own if key in config}, shape)

    def shape_entries(self, shape: ModelShape) -> dict[str, Any]:
        """Entries of config.json that say what `shape` says."""
        entries = super().shape_entries(shape)
        return {
            key: value
            for key, value in entries.items()
            if key not in ("attention_bias", "mlp_bias", "head_dim", "num_key_value_heads")
        }

    def extension_entries(self, extension: ContextExtension) -> dict[str, Any]:
        """The window alone, under both names."""
        window = extension.target_window
        return {"max_position_embeddings": window, "model_max_length": window}

    def check_exportable(self, extension: ContextExtension) -> None:
        """Refuses every scaling and every other base: its class has neither."""
        windows = (extension.original_window, extension.target_window)
        if extension.is_scaled or extension.base != _BASE or windows[0] != windows[1]:
            raise CheckpointError(
                "model.export.architecture",
                required=f"another class than {self.architecture}, which rotates by the base {_BASE:g} alone",
                given=f"{extension.method} from {windows[0]} to {windows[1]} tokens",
                fix="model.export.architecture=auto writes the same function as a Llama",
            )
        super().check_exportable(extension)

    def same_function(self, shape: ModelShape) -> tuple[ModelShape, ...]:
        """A Llama, bit by bit."""
        return (replace(shape, family=Llama.name),)
