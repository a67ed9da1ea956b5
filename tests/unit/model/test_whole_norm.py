"""Norms over all heads: on one rank against torch's, and split over ranks against one rank.

Shape legend: S sequence, B batch, N heads, D head dim.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.nn.functional import rms_norm

from nemo_pi.model.whole_norm import WholeWidthRMSNorm
from tests.unit.checkpoint.models import run_ranks

S, B, N, D, EPS = 3, 2, 4, 8, 1e-3


def config(dtype: torch.dtype) -> TransformerConfig:
    sizes = {"num_layers": 1, "hidden_size": N * D, "num_attention_heads": N}
    return TransformerConfig(**sizes, use_cpu_initialization=True, params_dtype=dtype)


def values(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Input, weight and upstream gradient of all heads, which differ in size: none is normal alone."""
    generator = torch.Generator().manual_seed(3)
    x_SBND, grad_SBND = (torch.randn(S, B, N, D, generator=generator) for _ in range(2))
    sizes_N1 = torch.tensor([0.1, 1.0, 3.0, 10.0])[:, None]
    weight = torch.rand(N * D, generator=generator) + 0.5
    return (x_SBND * sizes_N1).to(dtype), weight.to(dtype), grad_SBND.to(dtype)


def exact(x: Tensor, weight: Tensor, grad: Tensor) -> list[Tensor]:
    """torch's own norm of the whole width in float64: output and gradients of input and weight."""
    x, weight = (v.double().requires_grad_() for v in (x, weight))
    out = rms_norm(x.flatten(-2), (N * D,), weight, EPS).view(x.shape)
    out.backward(grad.double())
    assert x.grad is not None and weight.grad is not None
    return [out.detach(), x.grad, weight.grad]


def assert_whole_width(dtype: torch.dtype, rtol: float) -> None:
    """This rank's heads through the module, against its part of the exact result."""
    group = parallel_state.get_tensor_model_parallel_group()
    size, rank = group.size(), group.rank()
    x, weight, grad = values(dtype)
    norm = WholeWidthRMSNorm(config(dtype), D, EPS, heads=N, group=group)
    assert norm.weight.shape == (N * D // size,) and norm.weight.tensor_model_parallel
    norm.weight.data.copy_(weight.chunk(size)[rank])
    mine = x.chunk(size, dim=2)[rank].clone().requires_grad_()
    out = norm(mine)
    assert (out.dtype, out.shape) == (dtype, mine.shape)
    out.backward(grad.chunk(size, dim=2)[rank])
    wanted_out, wanted_x, wanted_weight = exact(x, weight, grad)
    for given, wanted in (
        (out, wanted_out.chunk(size, dim=2)[rank]),
        (mine.grad, wanted_x.chunk(size, dim=2)[rank]),
        (norm.weight.grad, wanted_weight.chunk(size)[rank]),
    ):
        assert given is not None
        torch.testing.assert_close(given.double(), wanted, rtol=rtol, atol=rtol * float(wanted.abs().max()))


def _on_each_rank() -> None:
    assert_whole_width(torch.float32, 1e-6)
    assert_whole_width(torch.bfloat16, 2e-2)
    norm = WholeWidthRMSNorm(config(torch.float32), D, EPS, heads=N, group=dist.group.WORLD)
    (sharded,) = norm.sharded_state_dict("q_layernorm.", metadata={}).values()
    assert (sharded.key, sharded.global_shape) == ("q_layernorm.weight", (N * D,))
    assert sharded.global_offset == (dist.get_rank() * N * D // 2,)


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_one_rank_norms_the_whole_width(dtype: torch.dtype, rtol: float) -> None:
    assert_whole_width(dtype, rtol)


def test_ranks_norm_the_whole_width_together(tmp_path: Path) -> None:
    run_ranks(tmp_path, _on_each_rank, world=2, tensor=2)
