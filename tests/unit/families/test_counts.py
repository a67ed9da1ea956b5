"""What autograd keeps of a layer, against what it really keeps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from nemo_pi.families.registry import family_of
from nemo_pi.families.shape import ModelShape
from nemo_pi.model.build import BuildOptions
from nemo_pi.rope.spec import ContextExtension
from tests.unit.model.models import build, forward

TOKENS = 256
SHAPE = ModelShape(1, 64, 80, num_attention_heads=4, num_query_groups=2, head_dim=32, vocab_size=96)

PHI: dict[str, Any] = {
    **dict.fromkeys(("qkv_bias", "proj_bias", "mlp_bias", "parallel_residual"), True),
    "activation": "gelu_tanh",
}
NEOX: dict[str, Any] = {
    **dict.fromkeys(("qkv_bias", "proj_bias", "mlp_bias"), True),
    "activation": "gelu",
    "num_query_groups": 4,
}


def kept_bytes(shape: ModelShape) -> int:
    """Bytes of the tensors that a forward pass leaves for its backward pass, weights aside."""
    model = build(shape, ContextExtension.unscaled(TOKENS, shape.head_dim), BuildOptions()).train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    tokens_BS = torch.zeros(1, TOKENS, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = forward(model, tokens_BS, labels_BS=tokens_BS)
    size = sum(storage.nbytes() for storage in kept.values())
    del loss
    return size


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_query_groups": 4},
        {"family": "qwen2", "qkv_bias": True},
        {"family": "qwen3", "qk_norm": True},
        {"family": "qwen3", "qk_norm": True, "num_query_groups": 4},
        {"family": "phi", **PHI},
        {"family": "phi", **PHI, "qk_norm": True, "num_query_groups": 4},
        {"family": "gpt_neox", **NEOX, "parallel_residual": True},
        {"family": "gpt_neox", **NEOX},
        {"family": "stablelm", "parallel_residual": True},
        {"family": "nemotron", "activation": "relu2"},
        {"family": "olmo2", "qk_norm": True},
        {"family": "olmo2", "qk_norm": True, "num_query_groups": 4},
        {"family": "glm4", "qkv_bias": True},
        {"family": "granite", "residual_multiplier": 0.5, "attention_multiplier": 0.5},
        {"family": "gemma3_text", "qk_norm": True, "activation": "gelu_tanh"},
    ],
    ids=str,
)
def test_a_layer_keeps_what_its_family_says(changes: dict[str, Any]) -> None:
    one = replace(SHAPE, **changes)
    measured = kept_bytes(replace(one, num_layers=3)) - kept_bytes(replace(one, num_layers=2))
    kept = family_of(one).kept_channels(one)
    expected = 4 * TOKENS * (kept.residual + kept.attention + kept.mlp)
    assert measured == pytest.approx(expected, rel=0.05)
