"""RMSNorm of query or key over the channels of all heads, which tensor-parallel ranks share (OLMo 2).

Megatron's q_layernorm normalises each head by itself. Here every rank holds the channels and weights of its
own heads, and a sum over the ranks makes their mean square that of the whole width: one number per token in
the forward pass, another in the backward pass.

Shape legend: S sequence, B batch, n heads on this rank, N heads on all, D head dim, C = n·D channels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nemo_pi.kernels.norm import rms_norm_torch
from nemo_pi.model.norm import NormFunction


class WholeWidthRMSNorm(nn.Module):
    """RMSNorm whose mean square is taken over all heads of all tensor-parallel ranks.

    Args:
        config: says the weight's dtype.
        hidden_size: D, as Megatron's attention passes it.
        eps: added to the mean square.
        heads: N.
        group: the tensor-parallel ranks, each of which holds as many heads.
        backend: what computes it where one rank holds all heads.
    """

    def __init__(
        self,
        config: TransformerConfig,
        hidden_size: int,
        eps: float,
        heads: int,
        group: dist.ProcessGroup,
        backend: NormFunction = rms_norm_torch,
    ) -> None:
        super().__init__()
        self.eps, self.backend = eps, backend
        self.width = heads * hidden_size
        self.group = group if group.size() > 1 else None
        self.weight = nn.Parameter(torch.ones(self.width // group.size(), dtype=config.params_dtype))
        # A part of one weight, not a copy: its gradient is whole on this rank, and counts in the gradient's
        # norm on every rank.
        set_tensor_model_parallel_attributes(self.weight, is_parallel=True, dim=0, stride=1)

    def forward(self, x_SBnD: Tensor) -> Tensor:
        """x over the root mean square of its token's whole width, times the weight; x's shape and dtype."""
        if self.group is None:
            return self.backend(x_SBnD.flatten(-2), self.weight, self.eps).view(x_SBnD.shape)
        weight_nD = self.weight.view(x_SBnD.shape[-2:])
        normed: Tensor = _SplitRmsNorm.apply(x_SBnD, weight_nD, self.eps, self.width, self.group)
        return normed

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """For Megatron's distributed checkpoints: the weight is split over the tensor-parallel ranks."""
        state = self.state_dict(prefix="", keep_vars=True)
        sharded: dict[str, Any] = make_sharded_tensors_for_checkpoint(
            state, prefix, {"weight": 0}, sharded_offsets
        )
        return sharded


class _SplitRmsNorm(torch.autograd.Function):
    """y = w · x · r with r = (Σ x² / width + ε)^(−½), the sum over all ranks; keeps x and r."""

    @staticmethod
    def forward(
        ctx: Any, x_SBnD: Tensor, weight_nD: Tensor, eps: float, width: int, group: dist.ProcessGroup
    ) -> Tensor:
        wide = torch.promote_types(x_SBnD.dtype, torch.float32)
        squares = torch.linalg.vector_norm(x_SBnD, dim=(-2, -1), keepdim=True, dtype=wide).square_()
        dist.all_reduce(squares, group=group)
        inverse = squares.div_(width).add_(eps).rsqrt_()
        ctx.save_for_backward(x_SBnD, weight_nD, inverse)
        ctx.width, ctx.group = width, group
        return (x_SBnD * inverse).mul_(weight_nD).to(x_SBnD.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_SBnD: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        """dx = r·w·g − x·(Σ w·g·x)·r³/width, the sum over all ranks, and dw = Σ over tokens of g·x·r."""
        x_SBnD, weight_nD, inverse = ctx.saved_tensors
        wide = inverse.dtype
        product = grad_SBnD.to(wide) * x_SBnD
        grad_weight_nD = (product * inverse).sum(dim=(0, 1))
        # Each rank's outputs depend on the mean square of all: the gradient of that sums over the ranks.
        total = (product * weight_nD).sum(dim=(-2, -1), keepdim=True)
        dist.all_reduce(total, group=ctx.group)
        factor = total.mul_(inverse.pow(3)).div_(ctx.width)
        grad_x = (grad_SBnD.to(wide) * weight_nD).mul_(inverse).addcmul_(x_SBnD.to(wide), factor, value=-1)
        return grad_x.to(x_SBnD.dtype), grad_weight_nD.to(weight_nD.dtype), None, None, None
