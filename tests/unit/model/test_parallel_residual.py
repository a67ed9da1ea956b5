"""Layers whose attention and MLP stand beside each other, against the sum written out.

Shape legend: S tokens, B batch, H hidden size, F rotary pairs.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nemo_pi.families.shape import ModelShape
from nemo_pi.model.options import BuildOptions, Recompute
from nemo_pi.model.parallel_residual import ParallelResidualLayer
from nemo_pi.parallel.cpu_shim import cpu_shim
from nemo_pi.rope.positions import text_positions
from tests.unit.model.models import SHAPE, build, forward, random_tokens

pytestmark = pytest.mark.usefixtures("one_rank")

BIASES = dict.fromkeys(("qkv_bias", "proj_bias", "mlp_bias", "parallel_residual"), True)
PHI = replace(SHAPE, family="phi", activation="gelu_tanh", **BIASES)
NEOX = replace(SHAPE, family="gpt_neox", activation="gelu", num_query_groups=4, **BIASES)
BOTH = pytest.mark.parametrize("shape", [PHI, NEOX], ids=lambda shape: shape.family)


def random_model(shape: ModelShape, **options: Any) -> nn.Module:
    """Norms and biases as a trained model has them: megatron-core starts them at 0 and 1."""
    torch.manual_seed(1)
    model = build(shape, options=BuildOptions(init_method_std=0.15, **options))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.normal_(mean=0.5)
    return model


def sum_of_both(layer: Any, hidden_SBH: Tensor, tables: Tensor) -> Tensor:
    """x + attention(norm(x)) + mlp(norm(x)), by the layer's own parts."""
    normed_SBH = layer.input_layernorm(hidden_SBH)
    attended_SBH, attention_bias_H = layer.self_attention(
        normed_SBH, attention_mask=None, rotary_pos_emb=tables
    )
    mlp_SBH, mlp_bias_H = layer.mlp(
        layer.pre_mlp_layernorm(hidden_SBH) if layer.pre_mlp_layernorm._parameters else normed_SBH
    )
    return hidden_SBH + attended_SBH + attention_bias_H + mlp_SBH + mlp_bias_H


@BOTH
def test_both_read_the_layers_input(shape: ModelShape) -> None:
    model = random_model(shape)
    (layer, _), hidden_SBH = model.decoder.layers, torch.randn(9, 2, 64)
    tables = model.rotary_tables(text_positions(9).expand(2, -1))
    assert isinstance(layer, ParallelResidualLayer)
    with cpu_shim(), torch.no_grad():
        expected_SBH = sum_of_both(layer, hidden_SBH, tables)
        ours_SBH, _ = layer(hidden_SBH, attention_mask=None, rotary_pos_emb=tables)
    torch.testing.assert_close(ours_SBH, expected_SBH, rtol=1e-5, atol=1e-5)
    assert layer._mlp_input is None


def gradients(model: nn.Module) -> list[Tensor]:
    tokens_BS, labels_BS = random_tokens(), random_tokens(seed=1)
    with cpu_shim():  # recomputed layers run in the backward pass
        forward(model.train(), tokens_BS, labels_BS=labels_BS).sum().backward()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


NEMOTRON = replace(SHAPE, family="nemotron", activation="relu2", mlp_bias=True)


@pytest.mark.parametrize("shape", [PHI, NEOX, NEMOTRON], ids=lambda shape: shape.family)
@pytest.mark.parametrize(
    "recompute", [Recompute("full", "uniform", 1), Recompute("selective", modules=("mlp",))], ids=str
)
def test_recomputed_layers_have_the_same_gradients(shape: ModelShape, recompute: Recompute) -> None:
    """Those one after the other have a bias of the MLP, too, which Megatron's recomputation cannot return."""
    model = random_model(shape)
    again = build(shape, options=BuildOptions(recompute=recompute))
    again.load_state_dict(copy.deepcopy(model.state_dict()))
    expected = gradients(model)
    assert len(expected) == len(list(model.parameters()))
    for ours, theirs in zip(gradients(again), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
