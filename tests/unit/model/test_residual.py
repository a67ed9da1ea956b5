"""What is added to the residual: bias, then norm, then scale."""

from __future__ import annotations

import pytest
import torch
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_config import TransformerConfig

from nemo_pi.model.norm import RMSNorm
from nemo_pi.model.residual import ResidualAdd

CONFIG = TransformerConfig(num_layers=1, hidden_size=8, num_attention_heads=1, layernorm_epsilon=1e-2)


@pytest.mark.parametrize("with_norm", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
def test_in_this_order(with_norm: bool, with_bias: bool) -> None:
    x, residual, weight, bias = (torch.randn(3, 2, 8), torch.randn(3, 2, 8), torch.rand(8), torch.randn(8))
    module = ResidualAdd(CONFIG, ModuleSpec(RMSNorm) if with_norm else None, scale=0.25)
    wanted = x + bias if with_bias else x
    if module.norm is not None:
        module.norm.weight.data.copy_(weight)
        wanted = torch.nn.functional.rms_norm(wanted, (8,), weight, 1e-2)
    given = module(True, False)((x, bias if with_bias else None), residual, 0.0)
    torch.testing.assert_close(given, residual + 0.25 * wanted)
    assert len(list(module.parameters())) == int(with_norm)
