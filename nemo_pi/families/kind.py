"""What the layers of a model are made of beyond sizes: norms, activation, residual, biases and scales."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor
from torch.nn.functional import gelu, relu, silu

RMS_NORM, LAYER_NORM = "RMSNorm", "LayerNorm"
"""Megatron's names of norms. Here a LayerNorm has a bias, and an RMSNorm has none."""

# Megatron's configuration takes one of these three. What computes is the activation of the layer spec; only
# where that is Megatron's own fused one, or Transformer Engine's, does it follow from this name, and their
# gelu is the approximation by tanh.
MEGATRON_FUNCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"silu": silu, "gelu": gelu, "gelu_tanh": gelu, "relu2": relu}
)
"""Megatron's function for each of nemo_pi.kernels.activation."""


@dataclass(frozen=True)
class LayerKind:
    """What a family says of its layers; the neutral values are Llama's."""

    norm: str = RMS_NORM
    """RMS_NORM or LAYER_NORM: of every norm of the model, those of heads included."""
    zero_centered: bool = False
    """Whether norms multiply by 1 + weight (Nemotron's layernorm1p, Gemma)."""
    norms_before: bool = True
    """Whether attention and MLP read the residual through a norm."""
    norms_after: bool = False
    """Whether what attention and MLP return passes a norm before it is added to the residual."""
    activation: str = "silu"
    """silu, gelu, gelu_tanh or relu2 (the square of ReLU)."""
    gated: bool = True
    """Whether the MLP multiplies the activation of one projection with another one."""
    parallel: bool = False
    """Whether attention and MLP read the same residual and are added to it together."""
    shared_norm: bool = False
    """Whether one norm makes the input of both; only where they are parallel."""
    qk_norm: bool = False
    """Whether query and key are normalised before they are rotated."""
    qk_norm_whole: bool = False
    """Whether a norm of query or key spans the channels of all its heads, instead of each head's own."""
    qkv_bias: bool = False
    """Whether query, key and value projections add biases."""
    proj_bias: bool = False
    """Whether attention's output projection adds a bias."""
    mlp_bias: bool = False
    """Whether the MLP's projections add biases."""
    output_bias: bool = False
    """Whether the output layer adds a bias to the logits."""
    embedding_scale: float = 1.0
    """What token embeddings are multiplied by before the first layer."""
    residual_scale: float = 1.0
    """What the outputs of attention and MLP are multiplied by before they are added to the residual."""
    logits_divisor: float = 1.0
    """What logits are divided by."""
