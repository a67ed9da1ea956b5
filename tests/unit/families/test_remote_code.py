"""Baichuan and InternLM2: what their own classes read of a config.json, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from nemo_pi.errors import CheckpointError
from nemo_pi.families.registry import family_of_config

# As published, without what says nothing about shape or positions.
BAICHUAN_7B: dict[str, Any] = {
    "architectures": ["BaiChuanForCausalLM"],
    "model_type": "baichuan",
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "rms_norm_eps": 1e-06,
    "tie_word_embeddings": False,
    "vocab_size": 64000,
}
BAICHUAN_13B: dict[str, Any] = {
    **{key: value for key, value in BAICHUAN_7B.items() if key != "max_position_embeddings"},
    "architectures": ["BaichuanForCausalLM"],
    "hidden_size": 5120,
    "intermediate_size": 13696,
    "model_max_length": 4096,
    "num_attention_heads": 40,
    "num_hidden_layers": 40,
}
BAICHUAN_2 = {
    **BAICHUAN_7B,
    "architectures": ["BaichuanForCausalLM"],
    "vocab_size": 125696,
    "z_loss_weight": 0,
}
INTERNLM2_7B: dict[str, Any] = {
    "architectures": ["InternLM2ForCausalLM"],
    "bias": False,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "model_type": "internlm2",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"factor": 2.0, "type": "dynamic"},
    "rope_theta": 1000000,
    "tie_word_embeddings": False,
    "vocab_size": 92544,
}


def test_baichuan_7b() -> None:
    family = family_of_config(BAICHUAN_7B)
    shape = family.read_shape(BAICHUAN_7B)
    assert (shape.num_query_groups, shape.head_dim, shape.vocab_size) == (32, 128, 64000)
    assert family.num_parameters(shape) == 7_000_559_616  # as its model card counts
    extension = family.read_extension({**BAICHUAN_7B, "rope_theta": 5e5}, shape)
    assert (extension.base, extension.original_window, extension.is_scaled) == (1e4, 4096, False)
    assert family.read_shape({**BAICHUAN_7B, **family.shape_entries(shape)}) == shape


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (BAICHUAN_13B, "Baichuan of 13B, whose attention has ALiBi"),
        ({**BAICHUAN_13B, "max_position_embeddings": 4096}, "ALiBi"),
        (BAICHUAN_2, "Baichuan 2, whose output layer is normalised"),
        ({**BAICHUAN_7B, "tie_word_embeddings": True}, "tie_word_embeddings: required false"),
        ({**BAICHUAN_7B, "num_key_value_heads": 8}, "num_key_value_heads"),
        ({**INTERNLM2_7B, "bias": True}, "bias: required false"),
        ({key: value for key, value in INTERNLM2_7B.items() if key != "bias"}, "bias: required false"),
    ],
)
def test_what_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        family_of_config(config).read_shape(config)


def test_internlm2_7b() -> None:
    family = family_of_config(INTERNLM2_7B)
    shape = family.read_shape(INTERNLM2_7B)
    assert family.num_parameters(shape) == 7_737_708_544  # as safetensors count on the hub
    extension = family.read_extension(INTERNLM2_7B, shape)
    assert (extension.method, extension.factor, extension.base) == ("dynamic", 2.0, 1e6)
    assert (extension.original_window, extension.target_window) == (32768, 65536)
    entries = family.extension_entries(extension)
    assert entries["rope_scaling"] == {"type": "dynamic", "factor": 2.0}
    assert (entries["max_position_embeddings"], entries["rope_theta"]) == (32768, 1000000)
