"""Ministral 3's rotary entries, as transformers reads them and stops without them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoConfig
from transformers.models.ministral3.modeling_ministral3 import Ministral3RotaryEmbedding

from nemo_pi.errors import CheckpointError
from nemo_pi.families.registry import family_of_config
from nemo_pi.rope.query_scale import QueryScale
from nemo_pi.rope.tables import attention_factor, inverse_frequencies

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 262144,
}
YARN = {
    "type": "yarn",
    "rope_theta": 5e5,
    "factor": 8.0,
    "original_max_position_embeddings": 32768,
    "max_position_embeddings": 262144,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.2,
}


@pytest.mark.parametrize("given", [{}, {"rope_parameters": YARN}, {"rope_scaling": YARN}], ids=str)
def test_is_read_as_transformers_reads_it(given: dict[str, Any]) -> None:
    config = {"model_type": "ministral3", **SIZES, **given}
    family, theirs = family_of_config(config), AutoConfig.for_model("ministral3", **SIZES, **given)
    extension = family.read_extension(config, family.read_shape(config))
    rope = theirs.rope_parameters
    expected = QueryScale(rope["llama_4_scaling_beta"], rope["original_max_position_embeddings"])
    assert extension.query_scale == expected
    reader = Ministral3RotaryEmbedding(theirs)
    torch.testing.assert_close(inverse_frequencies(extension), reader.inv_freq, rtol=1e-6, atol=0)
    assert attention_factor(extension) == pytest.approx(reader.attention_scaling)


@pytest.mark.parametrize("method", ["none", "linear", "dynamic", "ntk", "yarn"])
def test_every_extension_leaves_the_queries_as_they_were(method: str) -> None:
    config = {"model_type": "ministral3", **SIZES, "rope_parameters": YARN}
    family = family_of_config(config)
    shape = family.read_shape(config)
    read = family.read_extension(config, shape)
    factor = 1.0 if method == "none" else 16.0
    other = replace(read, method=method, factor=factor, target_window=524288, extra=())
    written = {**config, **family.extension_entries(other)}
    assert AutoConfig.for_model(**written).rope_parameters["llama_4_scaling_beta"] == 0.2
    assert family.read_extension(written, shape) == other


def test_queries_that_do_not_grow_are_written() -> None:
    """transformers multiplies by what the entries say, and stops where they say nothing."""
    config = {"model_type": "ministral3", **SIZES}
    family = family_of_config(config)
    shape = family.read_shape(config)
    still = replace(family.read_extension(config, shape), query_scale=None)
    rope = family.extension_entries(still)["rope_parameters"]
    assert (rope["llama_4_scaling_beta"], rope["original_max_position_embeddings"]) == (0.0, 16384)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"llama_4_scaling_beta": None}, "llama_4_scaling_beta"),
        ({"llama_4_scaling_beta": "0.1"}, "llama_4_scaling_beta"),
        ({"type": "linear", "original_max_position_embeddings": None}, "original_max_position_embeddings"),
    ],
    ids=str,
)
def test_what_transformers_would_stop_at_is_refused(changes: dict[str, Any], message: str) -> None:
    config = {"model_type": "ministral3", **SIZES, "rope_parameters": {**YARN, **changes}}
    family = family_of_config(config)
    with pytest.raises(CheckpointError, match=message):
        family.read_extension(config, family.read_shape(config))
