"""RMSNorm for stacks without Transformer Engine, sequence parallelism included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from nemo_pi.kernels.norm import rms_norm_torch

NormFunction = Callable[[Tensor, Tensor, float], Tensor]
"""x [..., H], weight [H] and epsilon to the normed x."""


class RMSNorm(torch.nn.RMSNorm):
    """torch's RMSNorm, whose weight Megatron knows to reduce over tensor ranks under sequence parallelism.

    Megatron's local norm refuses sequence parallelism because nothing marks its weight.

    Args:
        config: says the weight's dtype.
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
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        self.backend = backend

    def forward(self, x: Tensor) -> Tensor:
        """x [..., H] over its root mean square, times the weight; in fp32, rounded to x's dtype last."""
        assert self.eps is not None
        return self.backend(x, self.weight, self.eps)
