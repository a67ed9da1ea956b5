"""Norms for stacks without Transformer Engine, sequence parallelism included.

Megatron's local norms refuse sequence parallelism because nothing marks their weights: under it each tensor
rank sees a part of every sequence, and gradients of what all ranks hold have to be added up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from nemo_pi.kernels.norm import norm_torch, rms_norm_torch

NormFunction = Callable[..., Tensor]
"""x [..., H], weight [H] and epsilon to the normed x; for a LayerNorm, its bias [H] as well."""


class RMSNorm(torch.nn.RMSNorm):
    """torch's RMSNorm, whose weight Megatron knows to reduce over tensor ranks under sequence parallelism.

    Args:
        config: says the weight's dtype, and whether it is centred at zero (layernorm_zero_centered_gamma).
        hidden_size: H.
        eps: added to the mean square.
        backend: what computes it.
    """

    def __init__(
        self,
        config: TransformerConfig,
        hidden_size: int,
        eps: float = 1e-5,
        backend: NormFunction = rms_norm_torch,
        **_: Any,
    ) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        self.zero_centered = _prepare(self, config)
        self.backend = backend

    def forward(self, x: Tensor) -> Tensor:
        """x [..., H] over its root mean square, times the weight; in fp32, rounded to x's dtype last."""
        assert self.eps is not None
        return self.backend(x, _multiplier(self.weight, self.zero_centered), self.eps)


class LayerNorm(torch.nn.LayerNorm):
    """torch's LayerNorm with a bias, both parameters marked likewise.

    Args:
        config, hidden_size, eps, backend: as RMSNorm's.
    """

    def __init__(
        self,
        config: TransformerConfig,
        hidden_size: int,
        eps: float = 1e-5,
        backend: NormFunction = norm_torch,
        **_: Any,
    ) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        self.zero_centered = _prepare(self, config)
        self.backend = backend

    def forward(self, x: Tensor) -> Tensor:
        """(x − mean) over the standard deviation, times the weight, plus the bias, [..., H] in x's dtype."""
        return self.backend(x, _multiplier(self.weight, self.zero_centered), self.eps, self.bias)


def _prepare(norm: torch.nn.Module, config: TransformerConfig) -> bool:
    """Marks the parameters; returns whether the weight is centred at zero, which it then starts at."""
    for parameter in norm.parameters():
        parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
    zero_centered = bool(config.layernorm_zero_centered_gamma)
    if zero_centered:
        torch.nn.init.zeros_(norm.weight)  # type: ignore[arg-type]
    return zero_centered


def _multiplier(weight_H: Tensor, zero_centered: bool) -> Tensor:
    """What the normed x is multiplied by; 1 + weight in fp32: 16 bits would lose most of a small weight."""
    if not zero_centered:
        return weight_H
    return 1.0 + weight_H.to(torch.promote_types(weight_H.dtype, torch.float32))
