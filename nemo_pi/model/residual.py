"""What attention and MLP return, on its way into the residual stream: bias, norm, scale.

Shape legend: S sequence (this rank's part of it under sequence parallelism), B batch, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable

from megatron.core.transformer.spec_utils import ModuleSpec, build_module
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn

Add = Callable[[tuple[Tensor, Tensor | None], Tensor, float], Tensor]
"""((x, bias), residual, dropout) to the new residual stream, as Megatron's bias_dropout_add takes them."""


class ResidualAdd(nn.Module):
    """Stands in for Megatron's bias_dropout_add: residual + scale · norm(x + bias).

    Args:
        config: Megatron's; dropout is 0 in every model here.
        norm: what builds the norm; None for none.
        scale: times what is added.
    """

    def __init__(
        self, config: TransformerConfig, norm: ModuleSpec | type | None = None, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.scale = scale
        self.norm: nn.Module | None = None
        if norm is not None:
            self.norm = build_module(
                norm, config=config, hidden_size=config.hidden_size, eps=config.layernorm_epsilon
            )

    def forward(self, training: bool, fused: bool) -> Add:
        """Megatron asks for the function by these two, which change nothing here."""
        return self._add

    def _add(self, x_with_bias: tuple[Tensor, Tensor | None], residual_SBH: Tensor, dropout: float) -> Tensor:
        assert dropout == 0.0, "hidden_dropout is refused where the YAML is read"
        x_SBH, bias_H = x_with_bias
        if bias_H is not None:
            x_SBH = x_SBH + bias_H
        if self.norm is not None:
            x_SBH = self.norm(x_SBH)
        # One operation, which keeps neither of the two for the backward pass.
        return residual_SBH.add(x_SBH, alpha=self.scale)
