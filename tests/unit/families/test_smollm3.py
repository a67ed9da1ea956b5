"""SmolLM3's layers without positions, read as transformers reads them."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoConfig

from nemo_pi.errors import CheckpointError
from nemo_pi.families.registry import family_of_config

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 32768,
}
KINDS = ["sliding_attention", "full_attention"] * 4


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"no_rope_layer_interval": 3},
        {"no_rope_layer_interval": 100},
        {"no_rope_layers": [1, 0] * 6},
        {"use_sliding_window": True, "sliding_window": 16},
        {"use_sliding_window": True, "sliding_window": None},
        {"use_sliding_window": True, "sliding_window": 16, "layer_types": KINDS},
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0}},
        {"rope_theta": 5e6, "rope_scaling": {"type": "dynamic", "factor": 4.0}},
    ],
    ids=str,
)
def test_layers_are_those_of_transformers(given: dict[str, Any]) -> None:
    config = {"model_type": "smollm3", **SIZES, **given}
    family, theirs = family_of_config(config), AutoConfig.for_model("smollm3", **SIZES, **given)
    shape = family.read_shape(config)
    rotated = [bool(entry) for entry in theirs.no_rope_layers[:8]]
    assert [layer not in shape.unrotated_layers for layer in range(8)] == rotated
    windows = [theirs.sliding_window if kind == "sliding_attention" else None for kind in theirs.layer_types]
    assert [shape.window_of(layer) for layer in range(8)] == windows
    assert family.read_extension(config, shape).base == theirs.rope_parameters["rope_theta"]
    written = family.shape_entries(shape)
    assert family.read_shape(written) == shape
    again = AutoConfig.for_model("smollm3", **written)
    assert (again.layer_types, again.no_rope_layers) == (theirs.layer_types, [int(one) for one in rotated])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"no_rope_layers": [1, 0]}, "no_rope_layers: required 0 or 1 for each of 8 layers"),
        ({"no_rope_layers": "1"}, "no_rope_layers"),
        ({"no_rope_layers": [0] * 8}, "no_rope_layers: required 1 for some layers"),
        ({"no_rope_layer_interval": 0}, "no_rope_layer_interval"),
        ({"no_rope_layer_interval": 1}, "no_rope_layers: required 1 for some layers"),
        ({"layer_types": KINDS}, "layer_types: required no sliding_attention"),
        ({"layer_types": KINDS, "use_sliding_window": True}, "layer_types: required no sliding_attention"),
        ({"layer_types": ["full_attention"]}, "layer_types: required 8 times"),
        ({"mlp_bias": True}, "mlp_bias"),
    ],
    ids=str,
)
def test_impossible_layers_are_refused(given: dict[str, Any], message: str) -> None:
    config = {"model_type": "smollm3", **SIZES, **given}
    with pytest.raises(CheckpointError, match=message):
        family_of_config(config).read_shape(config)
