"""config.json read: against transformers' own defaults, and everything that must be refused."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import LlamaConfig, MistralConfig

from nemo_pi.checkpoint.hf.config import extension_from_config, shape_from_config, window_source
from nemo_pi.errors import CheckpointError
from nemo_pi.rope.hf import to_hf
from nemo_pi.rope.spec import ContextExtension

REQUIRED: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "vocab_size": 96,
    "max_position_embeddings": 128,
}
LLAMA = {"model_type": "llama", **REQUIRED}
MISTRAL = {"model_type": "mistral", **REQUIRED}


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"num_key_value_heads": 2, "head_dim": 24, "rms_norm_eps": 1e-5, "tie_word_embeddings": True},
        {"sliding_window": 32},
        {"sliding_window": None, "head_dim": None},
    ],
)
@pytest.mark.parametrize(("given", "config"), [(LLAMA, LlamaConfig), (MISTRAL, MistralConfig)])
def test_sizes_are_what_transformers_would_take(given: dict, config: type, extra: dict) -> None:
    theirs = config.from_dict({**given, **extra})
    shape = shape_from_config({**given, **extra})
    assert shape.num_layers == theirs.num_hidden_layers
    assert shape.hidden_size == theirs.hidden_size
    assert shape.ffn_hidden_size == theirs.intermediate_size
    assert shape.num_attention_heads == theirs.num_attention_heads
    assert shape.head_dim == (theirs.head_dim or theirs.hidden_size // theirs.num_attention_heads)
    assert shape.vocab_size == theirs.vocab_size
    assert shape.norm_epsilon == theirs.rms_norm_eps
    assert shape.tied_embeddings == theirs.tie_word_embeddings
    # Only Mistral's modelling code looks at these two; its own post-init may leave None for "all heads".
    groups = theirs.num_key_value_heads or theirs.num_attention_heads
    assert shape.num_query_groups == groups
    expected = theirs.sliding_window if given is MISTRAL else None
    assert shape.sliding_window == expected


def test_llama_may_leave_its_groups_open() -> None:
    config = {**LLAMA, "num_key_value_heads": None}
    assert (
        shape_from_config(config).num_query_groups == LlamaConfig.from_dict(config).num_key_value_heads == 8
    )


REFUSED = [
    ({"model_type": "gpt2"}, "rotary position embeddings.*gpt2"),
    ({"model_type": "bloom"}, "rotary position embeddings.*bloom"),
    ({"position_embedding_type": "absolute"}, "rotary position embeddings.*absolute"),
    ({"alibi": True}, "rotary position embeddings"),
    ({"model_type": "cohere"}, "one of llama, mistral.*; given 'cohere'"),
    ({"model_type": None}, "one of llama, mistral.*; given None"),
    ({"architectures": ["LlamaForSequenceClassification"]}, "required LlamaForCausalLM"),
    ({"attention_bias": True}, "attention_bias.*biases are not supported"),
    ({"mlp_bias": True}, "mlp_bias.*biases are not supported"),
    ({"hidden_act": "gelu"}, "hidden_act: required silu"),
    ({"quantization_config": {"quant_method": "gptq"}}, "quantised"),
    ({"hidden_size": None}, "hidden_size: required a positive integer; given None"),
    ({"num_hidden_layers": 0}, "num_hidden_layers: required a positive integer"),
    ({"vocab_size": "96"}, "vocab_size: required a positive integer; given '96'"),
    ({"num_attention_heads": True}, "num_attention_heads"),
    ({"num_key_value_heads": 3}, "divisor of num_attention_heads 8; given 3"),
    ({"num_key_value_heads": 0}, "divisor of num_attention_heads 8; given 0"),
    ({"hidden_size": 65}, "multiple of num_attention_heads 8; given 65"),
    ({"rms_norm_eps": 0}, "rms_norm_eps"),
    ({"rms_norm_eps": "1e-5"}, "rms_norm_eps"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_what_cannot_be_trained_is_refused(change: dict, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        shape_from_config({**LLAMA, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head_dim": 15}, "even"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "whole heads"),
        ({"rope_parameters": {"rope_type": "unheard_of"}}, "unheard_of"),
        ({"max_position_embeddings": None}, "max_position_embeddings"),
        ({"rope_scaling": {"type": "linear"}}, "factor"),
    ],
)
def test_impossible_positions_are_refused(change: dict, message: str) -> None:
    config = {**LLAMA, **change}
    with pytest.raises(CheckpointError, match=message):
        extension_from_config(config, shape_from_config(config))


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}


@pytest.mark.parametrize(
    ("change", "window", "source"),
    [
        ({}, 128, "max_position_embeddings"),
        ({"rope_parameters": YARN}, 32, "rope_parameters.original_max_position_embeddings"),
        ({"rope_scaling": YARN}, 32, "rope_scaling.original_max_position_embeddings"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, 64, "max_position_embeddings / factor"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, 128, "max_position_embeddings"),
        (
            to_hf(ContextExtension.build(original_window=16, target_window=128, method="ntk", head_dim=8)),
            16,
            "nemo_pi_extension.original_window",
        ),
        ({"nemo_pi_extension": {"method": "unheard of"}}, 128, "max_position_embeddings"),
        ({"nemo_pi_extension": "not even an object"}, 128, "max_position_embeddings"),
    ],
)
def test_the_original_window_and_where_it_was_read(change: dict, window: int, source: str) -> None:
    config = {**LLAMA, **change}
    extension = extension_from_config(config, shape_from_config(config))
    assert extension.original_window == window
    assert window_source(config, extension) == source
