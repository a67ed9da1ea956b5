"""Entries of a config.json: what transformers' own classes refuse is refused, by name."""

from __future__ import annotations

import math
from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from nemo_pi.errors import CheckpointError
from nemo_pi.families.llama import Llama
from nemo_pi.families.registry import families, family_of_config
from tests.unit.families.test_qwen2 import SIZES

FLAGS = [
    (family.name, key)
    for family in families()
    if isinstance(family, Llama) and not family.remote_code
    for key, value in family.defaults.items()
    if isinstance(value, bool)
]


_USUAL = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
_GPTJ = ("n_embd", "n_inner", "n_layer", "n_head", "vocab_size")
OWN_SIZES = {
    "gpt_neox": {**{key: key for key in _USUAL}, "head_dim": "head_dim"},
    "gptj": dict(zip(_USUAL, _GPTJ, strict=True)),
}
"""Of families whose classes have other entries for sizes, or fewer: the usual one and theirs."""


@pytest.mark.parametrize(("name", "key"), FLAGS)
@pytest.mark.parametrize("value", ["false", "true", "", -1, 0, 1, 1.0, math.nan, [1], [], {}, None], ids=repr)
def test_booleans_are_booleans(name: str, key: str, value: Any) -> None:
    config = {"model_type": name, **SIZES, key: value}
    with pytest.raises(Exception, match=key):
        CONFIG_MAPPING[name].from_dict(config)
    with pytest.raises(CheckpointError, match=rf"config\.json: {key}.*true or false, without quotes"):
        family_of_config(config).read_shape(config)


@pytest.mark.parametrize("name", [family.name for family in families()])
@pytest.mark.parametrize("key", [*SIZES, "head_dim"])
@pytest.mark.parametrize("value", [10**10, 10**400], ids=["1e10", "1e400"])
def test_sizes_have_an_end(name: str, key: str, value: int) -> None:
    if key == "max_position_embeddings":
        return  # no size of a tensor: what reads the positions checks it
    if name in OWN_SIZES:
        if key not in OWN_SIZES[name]:
            return  # no entry of that class, which ignores it
        key = OWN_SIZES[name][key]
    config = {"model_type": name, **SIZES, key: value}
    with pytest.raises(CheckpointError, match=rf"config\.json: {key}"):
        family_of_config(config).read_shape(config)


@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
def test_layers_are_bounded_before_they_are_listed(name: str) -> None:
    config = {"model_type": name, **SIZES, "use_sliding_window": True, "num_hidden_layers": 10**9}
    with pytest.raises(
        CheckpointError, match=r"num_hidden_layers: required at most 65,536; given 1000000000"
    ):
        family_of_config(config).read_shape(config)


@pytest.mark.parametrize("kinds", [[{}] * 4, [["full_attention"]] * 4, [None] * 4, 4, "full", math.nan])
def test_kinds_of_layers_are_words(kinds: Any) -> None:
    config = {"model_type": "qwen2", **SIZES, "use_sliding_window": True, "layer_types": kinds}
    with pytest.raises(CheckpointError, match=r"config\.json: layer_types"):
        family_of_config(config).read_shape(config)


@pytest.mark.parametrize(
    "value", [5, True, 1.5, math.nan, "LlamaForCausalLM", "NotLlamaForCausalLM", {"LlamaForCausalLM": 1}]
)
def test_architectures_are_a_list(value: Any) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: architectures: required LlamaForCausalLM"):
        family_of_config({"model_type": "llama", "architectures": value})
