"""Megatron's linear layers, whose products on a CPU are those of kernels/products.py."""

from __future__ import annotations

from typing import Any

from megatron.core.tensor_parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    copy_to_tensor_model_parallel_region,
)
from torch import Tensor

from nemo_pi.kernels import products


class ColumnLinear(ColumnParallelLinear):
    """ColumnParallelLinear; under sequence parallelism its own products, which gather rows as they go."""

    def _forward_impl(self, input: Tensor, weight: Tensor, **settings: Any) -> Tensor:
        if settings["sequence_parallel"] or not products.gains_from_onednn(input):
            return super()._forward_impl(input=input, weight=weight, **settings)
        if settings["allreduce_dgrad"]:
            input = copy_to_tensor_model_parallel_region(input, group=settings["tp_group"])
        product = products.linear(input, weight)
        return product if settings["bias"] is None else product + settings["bias"]


class RowLinear(RowParallelLinear):
    """RowParallelLinear, which adds a bias itself, after the sum over ranks."""

    def _forward_impl(self, input: Tensor, weight: Tensor, **settings: Any) -> Tensor:
        if not products.gains_from_onednn(input):
            return super()._forward_impl(input=input, weight=weight, **settings)
        return products.linear(input, weight)
