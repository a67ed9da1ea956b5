"""Megatron's linear layers, whose products may be another library's (kernels/products.py)."""

from __future__ import annotations

from typing import Any

from megatron.core.tensor_parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    VocabParallelEmbedding,
    copy_to_tensor_model_parallel_region,
)
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from torch import Tensor, nn

from nemo_pi.kernels.products import TORCH, TorchProducts


class _Adaptable:
    """A linear layer beside which an adapter may stand (model/lora.py)."""

    adapter: Any

    def forward(self, input_: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """Megatron's output and bias; to the output is added what the adapter makes of the same input."""
        output, bias = super().forward(input_, *args, **kwargs)  # type: ignore[misc]
        return output if self.adapter is None else output + self.adapter(input_), bias

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None
    ) -> dict[str, Any]:
        """Megatron's, and the adapter's own: to Megatron all but weight and bias are replicas."""
        made: dict[str, Any] = super().sharded_state_dict(  # type: ignore[misc]
            prefix, sharded_offsets, metadata
        )
        if self.adapter is None:
            return made
        below = f"{prefix}adapter."
        own = {name: value for name, value in made.items() if not name.startswith(below)}
        return own | self.adapter.sharded_state_dict(below, sharded_offsets, metadata)


class ColumnLinear(_Adaptable, ColumnParallelLinear):
    """ColumnParallelLinear; under sequence parallelism its own products, which gather rows as they go.

    Args:
        args, kwargs: Megatron's.
        products: what multiplies.
    """

    def __init__(self, *args: Any, products: TorchProducts = TORCH, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.products = products
        self.register_module("adapter", None)

    def _forward_impl(self, input: Tensor, weight: Tensor, **settings: Any) -> Tensor:
        if settings["sequence_parallel"] or not self.products.changes_layers:
            return super()._forward_impl(input=input, weight=weight, **settings)
        if settings["allreduce_dgrad"]:
            # Its backward pass sums the input's gradient over ranks, as Megatron's own products do under this
            # flag.
            input = copy_to_tensor_model_parallel_region(input, group=settings["tp_group"])
        product = self.products.linear(input, weight)
        return product if settings["bias"] is None else product + settings["bias"]


class RowLinear(_Adaptable, RowParallelLinear):
    """RowParallelLinear, which adds a bias itself, after the sum over ranks.

    Args:
        args, kwargs: Megatron's.
        products: what multiplies.
    """

    def __init__(self, *args: Any, products: TorchProducts = TORCH, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.products = products
        self.register_module("adapter", None)

    def _forward_impl(self, input: Tensor, weight: Tensor, **settings: Any) -> Tensor:
        if not self.products.changes_layers:
            return super()._forward_impl(input=input, weight=weight, **settings)
        return self.products.linear(input, weight)


def mark_split(model: nn.Module) -> None:
    """Says of each weight along which dimension tensor-parallel ranks share it.

    Megatron does so while it draws a weight's first numbers, and not where they are left out; gradient norms
    would then count a split weight once.
    """
    for name, module in model.named_modules():
        split = isinstance(module, ColumnParallelLinear | RowParallelLinear | VocabParallelEmbedding)
        if split and module.weight is not None and not hasattr(module.weight, "tensor_model_parallel"):
            dim = 1 if isinstance(module, RowParallelLinear) else 0
            # Of the two matrices that a gated MLP stacks, each rank has a part of both.
            stacked = name.endswith("linear_fc1") and module.config.gated_linear_unit
            set_tensor_model_parallel_attributes(module.weight, True, dim, 2 if stacked else 1)


def adding_bias(linear: type) -> type:
    """A kind of linear layer that adds its bias itself, although Megatron asks it to return it."""

    class AddingBias(linear):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "skip_bias_add": False})

    return AddingBias
