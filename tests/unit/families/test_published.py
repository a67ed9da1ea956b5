"""Models as their config.json are published, in small: old and new rotary entries, and what is silent.

Shape legend: B batch, S sequence, V vocabulary.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from nemo_pi.checkpoint.files import read_json
from nemo_pi.checkpoint.hf.save import export_huggingface
from nemo_pi.checkpoint.summary import read_source_config, read_summary
from tests.unit.checkpoint.models import assert_same_bits, stored_tensors
from tests.unit.model.models import (
    ExactRotary,
    causal_logits,
    forward,
    ours_from,
    random_tokens,
    transformers_model,
)

pytestmark = pytest.mark.usefixtures("one_rank")

LLAMA_3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LINEAR_4, LINEAR_8 = ({"factor": factor, "type": "linear"} for factor in (4.0, 8.0))
PHI_128K = {"max_position_embeddings": 131072, "original_max_position_embeddings": 4096, "rope_theta": 1e4}


def longrope_lists(num_frequencies: int) -> dict[str, list[float]]:
    """Factors that rise as published ones do."""
    return {
        "short_factor": [1.0 + j / 8 for j in range(num_frequencies)],
        "long_factor": [1.1 + 3.0 * j for j in range(num_frequencies)],
    }


# name: (model_type, sizes of the small model, config.json without sizes, windows)
PUBLISHED: dict[str, tuple[str, dict[str, Any], dict[str, Any], tuple[int, int]]] = {
    "llama-1": ("llama", {"num_key_value_heads": 4}, {"max_position_embeddings": 2048}, (2048, 2048)),
    "llama-2": (
        "llama",
        {"num_key_value_heads": 4},
        {"max_position_embeddings": 4096, "rope_scaling": None, "pretraining_tp": 1},
        (4096, 4096),
    ),
    "llama-3": ("llama", {}, {"max_position_embeddings": 8192, "rope_theta": 5e5}, (8192, 8192)),
    "llama-3.1": (
        "llama",
        {},
        {
            "max_position_embeddings": 131072,
            "rope_theta": 5e5,
            "rope_scaling": LLAMA_3 | {"factor": 8.0, "original_max_position_embeddings": 8192},
        },
        (8192, 131072),
    ),
    "llama-3.2": (
        "llama",
        {"tie_word_embeddings": True, "head_dim": 16},
        {
            "max_position_embeddings": 131072,
            "rope_parameters": LLAMA_3
            | {"factor": 32.0, "original_max_position_embeddings": 8192, "rope_theta": 5e5},
        },
        (8192, 131072),
    ),
    "code-llama": ("llama", {}, {"max_position_embeddings": 16384, "rope_theta": 1e6}, (16384, 16384)),
    "yi": (
        "llama",
        {"num_key_value_heads": 1},
        {"max_position_embeddings": 4096, "rope_theta": 5e6, "rope_scaling": None},
        (4096, 4096),
    ),
    "vicuna-16k": (
        "llama",
        {"num_key_value_heads": 4},
        {"max_position_embeddings": 4096, "max_sequence_length": 16384, "rope_scaling": LINEAR_4},
        (4096, 16384),
    ),
    "longchat-32k": (
        "llama",
        {"num_key_value_heads": 4},
        {"max_position_embeddings": 4096, "max_sequence_length": 32768, "rope_scaling": LINEAR_8},
        (4096, 32768),
    ),
    "mistral-v0.1": (
        "mistral",
        {"sliding_window": 9},
        {"max_position_embeddings": 32768, "rope_theta": 1e4},
        (32768, 32768),
    ),
    "mistral-nemo": (
        "mistral",
        {"hidden_size": 80, "head_dim": 16, "num_attention_heads": 4},
        {"max_position_embeddings": 1024000, "rope_theta": 1e6, "sliding_window": None},
        (1024000, 1024000),
    ),
    "phi-3-mini-4k": (
        "phi3",
        {"num_key_value_heads": 4, "sliding_window": 9},
        {"max_position_embeddings": 4096, "original_max_position_embeddings": 4096, "rope_scaling": None},
        (4096, 4096),
    ),
    "phi-3-mini-128k": (
        "phi3",
        {"num_key_value_heads": 4, "sliding_window": 262144},
        {**PHI_128K, "rope_scaling": {**longrope_lists(8), "type": "longrope"}},
        (4096, 131072),
    ),
    "phi-4-mini": (
        "phi3",
        {"tie_word_embeddings": True, "sliding_window": 262144},
        {
            **PHI_128K,
            "partial_rotary_factor": 0.75,
            "rope_scaling": {**longrope_lists(6), "type": "longrope"},
        },
        (4096, 131072),
    ),
    "granite-3.1": (
        "granite",
        {
            "tie_word_embeddings": True,
            "embedding_multiplier": 12.0,
            "attention_multiplier": 0.0625,
            "residual_multiplier": 0.22,
            "logits_scaling": 0.5,  # 8 or 16 in published ones, of whose logits little would be left here
        },
        {"max_position_embeddings": 131072, "rope_theta": 5e6, "rope_scaling": None},
        (131072, 131072),
    ),
    "olmo-2": ("olmo2", {}, {"max_position_embeddings": 4096, "rope_theta": 500000}, (4096, 4096)),
    "glm-4 with a part that is null": (
        "glm4",
        {"head_dim": 16},
        {"max_position_embeddings": 4096, "partial_rotary_factor": None},
        (4096, 4096),
    ),
    "glm-4-0414": (
        "glm4",
        {},
        {"max_position_embeddings": 32768, "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        (32768, 32768),
    ),
    "glm-4-0414, whose share of rotated channels is its default": (
        "glm4",
        {"attention_bias": False},
        {"max_position_embeddings": 32768, "rope_theta": 10000.0},
        (32768, 32768),
    ),
}


def published(name: str, folder: Path) -> tuple[int, int]:
    """A random model with the published entries in its config.json; returns the windows they stand for."""
    family, sizes, entries, windows = PUBLISHED[name]
    transformers_model(family, **sizes).save_pretrained(folder)
    config = read_json(folder / "config.json")
    for key in ("rope_parameters", "max_position_embeddings"):
        config.pop(key)
    (folder / "config.json").write_text(json.dumps(config | entries))
    return windows


@pytest.mark.parametrize("name", PUBLISHED)
def test_logits_are_those_of_transformers_and_exports_keep_every_word(name: str, tmp_path: Path) -> None:
    """From inside the original window to a hundred times beyond the target, in one row each."""
    windows = published(name, tmp_path / "in")
    summary = read_summary(tmp_path / "in")
    assert (summary.extension.original_window, summary.extension.target_window) == windows
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "in", attn_implementation="eager").eval()
    theirs.model.rotary_emb = ExactRotary(theirs.model.rotary_emb)
    ours = ours_from(tmp_path / "in", summary.extension, shape=summary.shape)
    tokens_BS = random_tokens(length=40)
    reach_B1 = torch.tensor([[windows[0] - 1], [min(100 * windows[1], 10**7)]])
    positions_BS = (torch.linspace(0, 1, 40)[None] * reach_B1).long()
    with torch.no_grad():
        ours_BSV = forward(ours, tokens_BS, positions_BS)
        theirs_BSV = causal_logits(theirs, tokens_BS, positions_BS)
    assert theirs_BSV.std() > 0.3
    torch.testing.assert_close(ours_BSV, theirs_BSV, rtol=1e-4, atol=2e-4)
    source = read_source_config(tmp_path / "in")
    export_huggingface([ours], summary.shape, summary.extension, tmp_path / "out", source_config=source)
    assert_same_bits(stored_tensors(tmp_path / "out"), stored_tensors(tmp_path / "in"))
    assert read_json(tmp_path / "out" / "config.json") == read_json(tmp_path / "in" / "config.json")


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_written_anew_says_the_same(name: str, tmp_path: Path) -> None:
    """Without the source's config.json, and read by transformers."""
    published(name, tmp_path / "in")
    summary = read_summary(tmp_path / "in")
    ours = ours_from(tmp_path / "in", summary.extension, shape=summary.shape)
    export_huggingface([ours], summary.shape, summary.extension, tmp_path / "out")
    again = read_summary(tmp_path / "out")
    assert (again.shape, again.extension) == (summary.shape, summary.extension)
    theirs, theirs_again = (
        AutoModelForCausalLM.from_pretrained(tmp_path / folder).model.rotary_emb for folder in ("in", "out")
    )
    assert torch.equal(theirs.inv_freq, theirs_again.inv_freq)
    assert theirs.attention_scaling == theirs_again.attention_scaling
