"""SmolLM3: a Llama of which every fourth layer sees no positions (NoPE, arXiv 2501.18795)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from nemo_pi.families.entries import MOST_LAYERS, flag, size, unusable
from nemo_pi.families.layer_types import kinds_of, read_kinds, windows
from nemo_pi.families.llama import PLAIN_LAYERS, Llama
from nemo_pi.families.shape import ModelShape
from nemo_pi.rope.hf_kinds import SLIDING


class SmolLM3(Llama):
    """model_type smollm3."""

    name = "smollm3"
    architecture = "SmolLM3ForCausalLM"
    fixed: ClassVar[Mapping[str, Any]] = PLAIN_LAYERS
    rope_defaults: ClassVar[Mapping[str, Any]] = {"rope_theta": 2e6}
    defaults: ClassVar[Mapping[str, Any]] = {
        "num_key_value_heads": 4,
        "head_dim": None,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "use_sliding_window": False,
        "sliding_window": None,
        "layer_types": None,
        "no_rope_layers": None,
        "no_rope_layer_interval": 4,
    }

    def read_windows(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Which layers are not rotated and which slide: those that are not rotated, where layer_types is
        silent and a window is asked for."""
        rotated = _rotated_layers(config)
        slides = flag(config, "use_sliding_window") and config["sliding_window"] is not None
        kinds = read_kinds(config, lambda layer: slides and not rotated[layer])
        if SLIDING in kinds and not slides:
            # transformers hides keys in such a layer with some implementations of attention, not with others.
            required = f"no {SLIDING} beside use_sliding_window false or sliding_window null"
            raise unusable("layer_types", required, kinds)
        if not any(rotated):
            fix = "start from a checkpoint with rotary layers: nothing else can be extended"
            raise unusable("no_rope_layers", "1 for some layers", config["no_rope_layers"], fix)
        unrotated = tuple(layer for layer, is_rotated in enumerate(rotated) if not is_rotated)
        return {**windows(config, kinds), "unrotated_layers": unrotated}

    def shape_entries(self, shape: ModelShape) -> dict[str, Any]:
        """Entries of config.json that say what `shape` says; every layer is named."""
        return {
            **super().shape_entries(shape),
            "use_sliding_window": shape.sliding_window is not None,
            "sliding_window": shape.sliding_window,
            "layer_types": kinds_of(shape),
            "no_rope_layers": [int(layer not in shape.unrotated_layers) for layer in range(shape.num_layers)],
        }


def _rotated_layers(config: Mapping[str, Any]) -> list[bool]:
    """Per layer what no_rope_layers says (1: rotated, in spite of its name) or, silent, the interval."""
    layers, given = size(config, "num_hidden_layers", MOST_LAYERS), config["no_rope_layers"]
    if given is None:
        interval = size(config, "no_rope_layer_interval")
        return [(layer + 1) % interval != 0 for layer in range(layers)]
    known = isinstance(given, list) and all(isinstance(entry, int) for entry in given)
    if not known or len(given) < layers:
        raise unusable("no_rope_layers", f"0 or 1 for each of {layers} layers", given)
    return [bool(entry) for entry in given[:layers]]
