"""Operations counted by hand, and by PyTorch's own counter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nemo_pi.engine.throughput import training_flops_per_token
from nemo_pi.families.shape import ModelShape
from tests.unit.model.models import SHAPE, transformers_model


def test_frozen_weights_and_groups_save_work() -> None:
    whole = training_flops_per_token(SHAPE, 64)
    in_groups = training_flops_per_token(SHAPE, 64, attention_span=16)
    without = training_flops_per_token(SHAPE, 0)
    assert in_groups - without == (whole - without) / 4
    assert whole - training_flops_per_token(SHAPE, 64, frozen=True) == without / 3


def test_hand_count() -> None:
    """Two layers of width 4, one head of 4 channels, ffn 8, vocabulary 10, 6 tokens."""
    shape = ModelShape(
        num_layers=2,
        hidden_size=4,
        ffn_hidden_size=8,
        num_attention_heads=1,
        num_query_groups=1,
        head_dim=4,
        vocab_size=10,
    )
    qkv, out, mlp, logits = 3 * 4 * 4, 4 * 4, 3 * 4 * 8, 4 * 10
    scores_and_values = 2 * 4 * 3  # a token attends to 3 of 6 on average
    multiplications = 2 * (qkv + out + mlp + scores_and_values) + logits
    assert training_flops_per_token(shape, 6) == 3 * 2 * multiplications


def test_forward_equals_pytorchs_counter() -> None:
    """transformers computes full, not causal, attention: twice ours in that part."""
    model, length = transformers_model(), 32
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, length, dtype=torch.long))
    attention = 2 * 2 * SHAPE.num_layers * SHAPE.num_attention_heads * SHAPE.head_dim * length * length
    ours = training_flops_per_token(SHAPE, length) / 3 * length
    assert ours == counter.get_total_flops() - attention / 2


def test_sliding_windows_bound_attention() -> None:
    window = replace(SHAPE, sliding_window=8)
    assert training_flops_per_token(window, 8) == training_flops_per_token(SHAPE, 8)
    grown = training_flops_per_token(window, 10**6) - training_flops_per_token(SHAPE, 0)
    per_key = 12 * SHAPE.num_layers * SHAPE.num_attention_heads * SHAPE.head_dim
    assert grown == pytest.approx(8 * per_key)


def test_layers_without_a_window_attend_to_everything() -> None:
    some = replace(SHAPE, sliding_window=8, full_attention_layers=(0,))
    full, window = (training_flops_per_token(replace(SHAPE, sliding_window=w), 512) for w in (None, 8))
    assert training_flops_per_token(some, 512) == (full + window) / 2


def test_biases_and_norms_multiply_nothing() -> None:
    for changes in ({"family": "qwen2", "qkv_bias": True}, {"family": "qwen3", "qk_norm": True}):
        assert training_flops_per_token(replace(SHAPE, **changes), 64) == training_flops_per_token(SHAPE, 64)


def test_tied_embeddings_still_multiply_by_the_output_layer() -> None:
    tied = replace(SHAPE, tied_embeddings=True)
    assert training_flops_per_token(tied, 64) == training_flops_per_token(SHAPE, 64)
