"""Qwen's windows and the YaRN entries that its model cards tell people to add."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

from nemo_pi.errors import CheckpointError
from nemo_pi.families.registry import family_of_config
from nemo_pi.rope.tables import attention_factor, inverse_frequencies

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 32768,
}


@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"sliding_window": 16, "max_window_layers": 2},
        {"use_sliding_window": True},  # from layer 28 on, which these models do not have
        {"use_sliding_window": True, "max_window_layers": 1},
        {"use_sliding_window": True, "max_window_layers": 0, "sliding_window": 16},
        {"use_sliding_window": True, "sliding_window": None, "max_window_layers": 0},
        {
            "use_sliding_window": True,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
    ],
    ids=str,
)
def test_windows_are_those_of_transformers(name: str, given: dict[str, Any]) -> None:
    config = {"model_type": name, **SIZES, **given}
    family, theirs = family_of_config(config), AutoConfig.for_model(name, **SIZES, **given)
    windows = [theirs.sliding_window if kind == "sliding_attention" else None for kind in theirs.layer_types]
    shape = family.read_shape(config)
    assert [shape.window_of(layer) for layer in range(4)] == windows
    assert shape.head_dim == (128 if name == "qwen3" else 16)
    written = family.shape_entries(shape)
    assert family.read_shape(written) == shape
    again = AutoConfig.for_model(name, **written)
    assert (again.layer_types, again.use_sliding_window) == (theirs.layer_types, any(windows))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layer_types": ["full_attention"]}, "layer_types: required 4 times"),
        ({"layer_types": ["full_attention"] * 3 + ["linear_attention"]}, "layer_types"),
        ({"layer_types": "full_attention"}, "layer_types"),
        ({"max_window_layers": -1}, "max_window_layers"),
        ({"max_window_layers": 0, "sliding_window": "16"}, "sliding_window: required a positive integer"),
    ],
)
def test_impossible_windows_are_refused(given: dict[str, Any], message: str) -> None:
    config = {"model_type": "qwen2", **SIZES, "use_sliding_window": True, **given}
    with pytest.raises(CheckpointError, match=message):
        family_of_config(config).read_shape(config)


def test_biases_that_cannot_be_trained_are_refused() -> None:
    config = {"model_type": "qwen3", **SIZES, "attention_bias": True}
    with pytest.raises(CheckpointError, match="attention_bias"):
        family_of_config(config).read_shape(config)


YARN = {"factor": 4.0, "original_max_position_embeddings": 32768}


@pytest.mark.parametrize(
    ("name", "window", "spelling"),
    [
        ("qwen2", 32768, {"rope_scaling": {**YARN, "type": "yarn"}}),  # Qwen2.5-7B-Instruct's card
        ("qwen2", 131072, {"rope_scaling": {**YARN, "rope_type": "yarn"}}),
        ("qwen3", 40960, {"rope_scaling": {**YARN, "rope_type": "yarn"}}),  # Qwen3-8B's card
        ("qwen3", 40960, {"rope_parameters": {**YARN, "rope_type": "yarn", "rope_theta": 1e6}}),
    ],
)
def test_qwens_own_yarn_is_read_as_transformers_reads_it(
    name: str, window: int, spelling: dict[str, Any]
) -> None:
    config = {"model_type": name, **SIZES, "rope_theta": 1e6, **spelling, "max_position_embeddings": window}
    family = family_of_config(config)
    extension = family.read_extension(config, family.read_shape(config))
    assert (extension.method, extension.factor, extension.original_window) == ("yarn", 4.0, 32768)
    assert extension.target_window == 131072
    theirs = Qwen2RotaryEmbedding(
        AutoConfig.for_model(name, **{k: v for k, v in config.items() if k != "model_type"})
    )
    torch.testing.assert_close(inverse_frequencies(extension, 131072), theirs.inv_freq, rtol=1e-6, atol=0)
    assert attention_factor(extension, 131072) == pytest.approx(theirs.attention_scaling)
