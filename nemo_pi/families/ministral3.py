"""Ministral 3: a Mistral whose queries grow with their position, trained with YaRN from 16,384 tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from nemo_pi.families.mistral import Mistral
from nemo_pi.families.shape import ModelShape
from nemo_pi.rope.methods.yarn import Yarn
from nemo_pi.rope.query_scale import QueryScale
from nemo_pi.rope.spec import ContextExtension

# transformers' rotary entries where config.json has none.
_ROPE = {
    "rope_type": Yarn.hf_types[0],
    "rope_theta": 1e6,
    "factor": 16.0,
    "original_max_position_embeddings": 16384,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}


class Ministral3(Mistral):
    """model_type ministral3, the language model."""

    name = "ministral3"
    architecture = "Ministral3ForCausalLM"
    scales_queries = True
    defaults: ClassVar[Mapping[str, Any]] = {
        **Mistral.defaults,
        "head_dim": 128,
        "rms_norm_eps": 1e-5,
        "sliding_window": None,
    }

    def read_extension(self, config: Mapping[str, Any], shape: ModelShape) -> ContextExtension:
        """How the checkpoint's positions are made, with transformers' own YaRN where it does not say."""
        if not (config.get("rope_scaling") or config.get("rope_parameters")):
            config = {**config, "rope_parameters": _ROPE}
        return super().read_extension(config, shape)

    def extension_entries(self, extension: ContextExtension) -> dict[str, Any]:
        """Queries that do not grow are written, too: transformers' class stops where nothing says so."""
        if extension.query_scale is None:
            extension = replace(extension, query_scale=QueryScale(0.0, extension.original_window))
        return super().extension_entries(extension)
