"""Configs as published, in the newer and the older spelling, against transformers reading the same."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from nemo_pi.errors import CheckpointError
from nemo_pi.rope.hf import from_hf, read_extension
from nemo_pi.rope.tables import attention_factor, inverse_frequencies

LLAMA_3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LISTS = {"short_factor": [1.0] * 8 + [1.5] * 8, "long_factor": [1.0 + j for j in range(16)]}

# name: (config.json, original window, target window, method, factor)
PUBLISHED: dict[str, tuple[dict[str, Any], int, int, str, float]] = {
    "llama-1": ({"max_position_embeddings": 2048}, 2048, 2048, "none", 1.0),
    "mistral": ({"max_position_embeddings": 32768, "rope_theta": 1e6}, 32768, 32768, "none", 1.0),
    "null-scaling": ({"max_position_embeddings": 4096, "rope_scaling": None}, 4096, 4096, "none", 1.0),
    "default": (
        {"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        4096,
        4096,
        "none",
        1.0,
    ),
    "deepseek-coder": (
        {
            "max_position_embeddings": 16384,
            "rope_scaling": {"factor": 4.0, "type": "linear"},
            "rope_theta": 1e5,
        },
        4096,
        16384,
        "linear",
        4.0,
    ),
    "vicuna-16k": (
        {
            "max_position_embeddings": 4096,
            "max_sequence_length": 16384,
            "rope_scaling": {"factor": 4.0, "type": "linear"},
        },
        4096,
        16384,
        "linear",
        4.0,
    ),
    "linear-that-does-not-divide": (
        {"max_position_embeddings": 4096, "rope_scaling": {"factor": 3, "type": "linear"}},
        1365,
        4095,
        "linear",
        3.0,
    ),
    "dynamic": (
        {"max_position_embeddings": 2048, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
        2048,
        4096,
        "dynamic",
        2.0,
    ),
    "qwen-2.5": (
        {
            "max_position_embeddings": 32768,
            "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
        },
        32768,
        131072,
        "yarn",
        4.0,
    ),
    "qwen-3": (
        {
            "max_position_embeddings": 40960,
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
        },
        32768,
        131072,
        "yarn",
        4.0,
    ),
    "yarn-without-original": (
        {"max_position_embeddings": 4096, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        4096,
        16384,
        "yarn",
        4.0,
    ),
    "yarn-with-zeros": (
        {
            "max_position_embeddings": 16384,
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 4096,
                "rope_theta": 10000.0,
                "beta_fast": 0,
                "mscale": 0.7,
                "attention_factor": None,
                "truncate": False,
            },
        },
        4096,
        16384,
        "yarn",
        4.0,
    ),
    "llama-3.1": (
        {"max_position_embeddings": 131072, "rope_scaling": LLAMA_3, "rope_theta": 5e5},
        8192,
        131072,
        "llama3",
        8.0,
    ),
    "llama-3.2": (
        {"max_position_embeddings": 131072, "rope_scaling": LLAMA_3 | {"factor": 32.0}, "rope_theta": 5e5},
        8192,
        131072,
        "llama3",
        32.0,
    ),
    "phi-3": (
        {
            "max_position_embeddings": 131072,
            "original_max_position_embeddings": 4096,
            "rope_scaling": {"type": "longrope", **LISTS},
        },
        4096,
        131072,
        "longrope",
        32.0,
    ),
    "longrope-with-another-factor": (
        {
            "max_position_embeddings": 131072,
            "rope_scaling": {
                "rope_type": "longrope",
                "factor": 16.0,
                "original_max_position_embeddings": 4096,
                **LISTS,
            },
        },
        4096,
        131072,
        "longrope",
        32.0,
    ),
    "gemma-4's-kind": (
        {
            "max_position_embeddings": 131072,
            "rope_parameters": {
                "rope_type": "proportional",
                "rope_theta": 1e6,
                "partial_rotary_factor": 0.25,
            },
        },
        131072,
        131072,
        "proportional",
        1.0,
    ),
    "partial-once": (
        {
            "max_position_embeddings": 4096,
            "partial_rotary_factor": 0.5,
            "rope_parameters": {
                "rope_type": "linear",
                "factor": 2.0,
                "rope_theta": 10000.0,
                "partial_rotary_factor": 0.5,
            },
        },
        2048,
        4096,
        "linear",
        2.0,
    ),
    "partial-at-the-top": (
        {
            "max_position_embeddings": 4096,
            "partial_rotary_factor": 0.5,
            "rope_scaling": {"type": "linear", "factor": 2.0},
        },
        2048,
        4096,
        "linear",
        2.0,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published(name: str) -> None:
    config, *expected = PUBLISHED[name]
    spec = from_hf(config, 32)
    assert [spec.original_window, spec.target_window, spec.method, spec.factor] == expected
    assert spec.is_scaled == (spec.method != "none")
    peer = LlamaConfig(**copy.deepcopy(config), hidden_size=32, num_attention_heads=1)
    assert spec.base == peer.rope_parameters["rope_theta"]
    rope_type = peer.rope_parameters["rope_type"]
    for length in (None, 1, spec.original_window, spec.original_window + 1, spec.target_window + 1):
        if rope_type != "default":
            inverse_F, factor = ROPE_INIT_FUNCTIONS[rope_type](peer, None, seq_len=length)
            ours_F = inverse_frequencies(spec, length)
            torch.testing.assert_close(ours_F, inverse_F, rtol=2.0**-23, atol=0.0)
            assert attention_factor(spec, length) == pytest.approx(factor, rel=1e-15)


def test_older_name_of_longrope() -> None:
    config = copy.deepcopy(PUBLISHED["phi-3"][0])
    config["rope_scaling"]["type"] = "su"
    assert from_hf(config, 32) == from_hf(PUBLISHED["phi-3"][0], 32)


def test_inner_entries_win() -> None:
    inner = {"rope_type": "default", "rope_theta": 3e4, "partial_rotary_factor": 0.5}
    config = {"max_position_embeddings": 64, "rope_theta": 1e4, "rope_parameters": inner}
    spec = read_extension(config | {"partial_rotary_factor": 1.0}, 32)
    assert (spec.base, spec.rotary_dim) == (3e4, 16)


@pytest.mark.parametrize("outer", [{"rope_theta": 3e4}, {}], ids=["theta-outside", "theta-nowhere"])
def test_of_two_spellings_the_older_wins_as_in_transformers(outer: dict[str, Any]) -> None:
    """Someone has added rope_scaling, as the pages of Qwen and vLLM say, to what transformers 5 wrote."""
    config = {
        "max_position_embeddings": 256,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e4},
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        **outer,
    }
    spec = from_hf(config, 32)
    peer = LlamaConfig(**copy.deepcopy(config), hidden_size=32, num_attention_heads=1)
    expected_F, factor = ROPE_INIT_FUNCTIONS[peer.rope_parameters["rope_type"]](peer, None)
    assert (spec.method, spec.factor, spec.original_window) == ("yarn", 4.0, 64)
    assert torch.equal(inverse_frequencies(spec), expected_F)
    assert attention_factor(spec) == pytest.approx(factor, rel=1e-15)


@pytest.mark.parametrize("rope_type", ["llama3", "yarn", "longrope"])
def test_of_two_original_windows_the_outer_wins_as_in_transformers(rope_type: str) -> None:
    """Phi-3 keeps it at the top level, where transformers looks first."""
    entries = {"rope_type": rope_type, "factor": 4.0, "original_max_position_embeddings": 128}
    entries |= {"llama3": {"low_freq_factor": 1.0, "high_freq_factor": 4.0}, "longrope": LISTS}.get(
        rope_type, {}
    )
    for outer, expected in ((64, 64), (None, 128)):
        config = {"max_position_embeddings": 256, "rope_scaling": dict(entries)}
        if outer is not None:
            config["original_max_position_embeddings"] = outer
        spec = from_hf(config, 32)
        assert spec.original_window == expected
        peer = LlamaConfig(**copy.deepcopy(config), hidden_size=32, num_attention_heads=1)
        for length in (None, 65, 129):
            inverse_F, factor = ROPE_INIT_FUNCTIONS[rope_type](peer, None, seq_len=length)
            torch.testing.assert_close(inverse_frequencies(spec, length), inverse_F, rtol=2.0**-23, atol=0.0)
            assert attention_factor(spec, length) == pytest.approx(factor, rel=1e-15)


@pytest.mark.parametrize(("window", "target"), [(4096, 8192), (8192, 8192), (8193, 8193)])
def test_a_llama_3_whose_window_is_below_the_original(window: int, target: int) -> None:
    """Someone has lowered max_position_embeddings to save memory: the frequencies know the original alone."""
    config = {"max_position_embeddings": window, "rope_scaling": LLAMA_3, "rope_theta": 5e5}
    spec = from_hf(config, 32)
    assert (spec.original_window, spec.target_window, spec.factor) == (8192, target, 8.0)
    peer = LlamaConfig(**copy.deepcopy(config), hidden_size=32, num_attention_heads=1)
    expected_F, _ = ROPE_INIT_FUNCTIONS["llama3"](peer, None)
    torch.testing.assert_close(inverse_frequencies(spec), expected_F, rtol=2.0**-23, atol=0.0)


def test_config_is_left_alone() -> None:
    config = copy.deepcopy(PUBLISHED["partial-at-the-top"][0])
    from_hf(config, 32)
    assert config == PUBLISHED["partial-at-the-top"][0]


def scaled(**rope: Any) -> dict[str, Any]:
    return {"max_position_embeddings": 4096, "rope_parameters": {"rope_theta": 1e4, **rope}}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "config.json (max_position_embeddings)"),
        ({"max_position_embeddings": "4096"}, "given '4096'"),
        (scaled(rope_type="axial"), "config.json (rope_type): required one of default, su, linear"),
        (scaled(rope_type="linear"), "config.json (factor)"),
        (scaled(rope_type="linear", factor="4"), "given '4'"),
        (scaled(rope_type="dynamic", factor=0.5), "at least 1"),
        (scaled(rope_type="yarn", factor=float("nan")), "given nan"),
        (scaled(rope_type="llama3", factor=8.0), "config.json (high_freq_factor)"),
        (scaled(rope_type="llama3", low_freq_factor=1, high_freq_factor=4), "config.json (factor)"),
        (scaled(rope_type="longrope", **LISTS, original_max_position_embeddings="a"), "pretrained window"),
        (scaled(rope_type="longrope", **LISTS, original_max_position_embeddings=8192), "8192"),
        (scaled(rope_type="longrope", short_factor=[1.0]), "config.json (short_factor)"),
        (scaled(rope_type="default", rope_theta=0), "config.json (rope_theta)"),
        (scaled(rope_type="default", partial_rotary_factor=0.3), "config.json (partial_rotary_factor)"),
        (scaled(full_attention={"rope_type": "default"}), "one set of entries for all layers"),
        ({"max_position_embeddings": 4096, "rope_scaling": "linear"}, "one set of entries"),
    ],
    ids=str,
)
def test_refusals(config: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        from_hf(config, 32)
    assert caught.value.field.startswith("config.json (")
    assert words in str(caught.value)


def test_a_linear_window_of_one_token_is_one() -> None:
    spec = from_hf({"max_position_embeddings": 2, "rope_scaling": {"type": "linear", "factor": 2.0}}, 32)
    assert (spec.original_window, spec.target_window) == (1, 2)
