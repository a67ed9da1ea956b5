"""p-RoPE against transformers' own function of that name, bit for bit, in both directions of config.json."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from nemo_pi.errors import CheckpointError, ConfigError
from nemo_pi.rope.hf import RECORD, from_hf, to_hf
from nemo_pi.rope.spec import ContextExtension
from nemo_pi.rope.tables import attention_factor, inverse_frequencies
from tests.unit.rope.peers import as_in_a_yaml, make_spec


def theirs(config: dict[str, Any], head_dim: int) -> tuple[torch.Tensor, float]:
    peer = LlamaConfig(**config, head_dim=head_dim, hidden_size=head_dim, num_attention_heads=1)
    return ROPE_INIT_FUNCTIONS["proportional"](peer, None)


@pytest.mark.parametrize("seed", range(60))
def test_bit_equal_with_transformers(seed: int) -> None:
    """A config written down here, read by both; and what we export of it, read by transformers."""
    draw = random.Random(seed)
    head_dim = draw.choice([16, 64, 96, 128, 256, 512])
    share = draw.choice([0.125, 0.25, 0.3, 0.5, 0.77, 1.0])
    rope: dict[str, Any] = {
        "rope_type": "proportional",
        "rope_theta": draw.choice([1e4, 5e5, 1e6, 123456.7]),
        "partial_rotary_factor": share,
    }
    if draw.random() < 0.7:
        rope["factor"] = draw.choice([1.0, 1.5, 3.7, 8.0, 32.0])
    config = {"max_position_embeddings": draw.choice([512, 4096, 131_072]), "rope_parameters": rope}
    spec = from_hf(config, head_dim)
    expected_F, factor = theirs(config, head_dim)
    for seq_len in (None, 1, spec.original_window, spec.target_window + 1):
        assert torch.equal(inverse_frequencies(spec, seq_len), expected_F)
        assert attention_factor(spec, seq_len) == factor == 1.0
    assert (inverse_frequencies(spec) > 0).sum() == int(share * head_dim / 2)
    exported_F, _ = theirs(to_hf(spec), head_dim)
    assert torch.equal(exported_F, expected_F)


def test_a_config_comes_back_with_and_without_the_record() -> None:
    spec = make_spec("proportional", extra_args={"partial_rotary_factor": 0.25})
    entries = to_hf(spec)
    assert from_hf(entries, 64) == spec
    del entries[RECORD]
    assert from_hf(entries, 64) == spec


def test_a_model_that_was_pretrained_so() -> None:
    """Gemma 4's full-attention layers: a share of a quarter and no factor."""
    rope = {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25}
    spec = from_hf({"max_position_embeddings": 131_072, "rope_parameters": rope}, 512)
    assert (spec.original_window, spec.target_window, spec.factor) == (131_072, 131_072, 1.0)
    assert spec.is_scaled and spec.rotary_dim == 512, "whole heads, most pairs of which stand still"
    assert to_hf(spec)["rope_parameters"] == rope


def test_a_share_of_one_is_linear_bit_for_bit() -> None:
    ours = make_spec("proportional", extra_args={"partial_rotary_factor": 1})
    assert torch.equal(inverse_frequencies(ours), inverse_frequencies(make_spec("linear")))
    assert not make_spec("proportional", target_window=512, extra_args={}).is_scaled


def test_the_stated_original_window_counts() -> None:
    rope = {"rope_type": "proportional", "factor": 4.0, "partial_rotary_factor": 0.5, "rope_theta": 1e4}
    config = {"max_position_embeddings": 4096, "rope_parameters": rope}
    assert from_hf(config, 64).original_window == 1024
    stated = from_hf(config | {"original_max_position_embeddings": 4096}, 64)
    assert (stated.original_window, stated.target_window) == (4096, 16384)


@pytest.mark.parametrize(("share", "words"), [(1.5, "most 1"), (0, "above 0"), (0.01, "0.03125")])
def test_refusals(share: float, words: str) -> None:
    with pytest.raises(ConfigError) as caught, as_in_a_yaml():
        make_spec("proportional", extra_args={"partial_rotary_factor": share})
    assert caught.value.field == "model.pos_scaling_extra_args.partial_rotary_factor"
    assert words in str(caught.value)


def test_partly_rotated_heads_have_no_share_of_pairs() -> None:
    half: dict[str, Any] = {"head_dim": 64, "rotary_percent": 0.5}
    words = r"model\.rotary_percentage.*pos_scaling_type: linear"
    with pytest.raises(ConfigError, match=words), as_in_a_yaml():
        ContextExtension.build(original_window=512, target_window=4096, method="proportional", **half)


def test_a_wrong_entry_of_config_json_is_named() -> None:
    rope = {"rope_type": "proportional", "partial_rotary_factor": 2.0}
    with pytest.raises(CheckpointError, match=r"config\.json \(partial_rotary_factor\)"):
        from_hf({"max_position_embeddings": 64, "rope_parameters": rope}, 64)


@pytest.mark.parametrize("share", [0.0, -0.5, 1.01])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match="partial_rotary_factor"):
        make_spec("proportional", extra_args={"partial_rotary_factor": share})
