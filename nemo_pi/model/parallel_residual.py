"""A layer whose attention and MLP read the same residual: x + attention(norm(x)) + mlp(norm(x)).

Megatron's layers put the MLP behind attention.
"""

from __future__ import annotations

from typing import Any

from megatron.core.transformer.transformer_layer import TransformerLayer
from torch import Tensor


class ParallelResidualLayer(TransformerLayer):
    """Megatron's layer, its MLP fed with the layer's own input rather than with what attention made of it.

    Args:
        args, kwargs: Megatron's.
        shared_norm: whether the MLP reads what the input's norm gave to attention (GPT-J, Phi); else it has a
            norm of its own (GPT-NeoX).
    """

    def __init__(self, *args: Any, shared_norm: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._mlp_input: Tensor | None = None
        if shared_norm:
            # Megatron's own code calls the norm, so its output is read off there.
            self.input_layernorm.register_forward_hook(self._share)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """As Megatron's."""
        self._mlp_input = hidden_states
        try:
            return super().forward(hidden_states, *args, **kwargs)
        finally:
            # Whatever stays here would be kept alive between layers.
            self._mlp_input = None

    def _share(self, norm: Any, inputs: Any, normed: Tensor) -> None:
        self._mlp_input = normed

    def _forward_pre_mlp_layernorm(self, hidden_states: Tensor) -> Any:
        """Of the layer's input, or nothing where that has been normed; `hidden_states` holds attention."""
        return super()._forward_pre_mlp_layernorm(self._mlp_input)
