"""RMSNorm against the formula in float64, and the mark Megatron looks for."""

from __future__ import annotations

import pytest
import torch
from megatron.core.transformer.transformer_config import TransformerConfig

from nemo_pi.model.norm import RMSNorm


def config_of(**changes: object) -> TransformerConfig:
    return TransformerConfig(num_layers=1, hidden_size=32, num_attention_heads=2, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_equals_the_formula(eps: float) -> None:
    """x / sqrt(mean(x²) + ε) · g (arXiv 1910.07467, equation 4)."""
    norm = RMSNorm(config_of(), 32, eps=eps)
    x_SBH = torch.randn(5, 2, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
    x, weight = x_SBH.double(), norm.weight.double()
    expected = x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight
    torch.testing.assert_close(norm(x_SBH).double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("split", [False, True])
def test_marks_its_weight_for_sequence_parallelism(split: bool) -> None:
    config = config_of()
    config.sequence_parallel = split  # its own check would ask for tensor ranks
    assert RMSNorm(config, 32).weight.sequence_parallel is split  # type: ignore[attr-defined]


def test_takes_the_models_dtype() -> None:
    assert RMSNorm(config_of(params_dtype=torch.bfloat16, bf16=True), 32).weight.dtype == torch.bfloat16
