"""An optimizer that Lightning can count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from megatron.core.optimizer import MegatronOptimizer
from torch import nn


class LightningOptimizerAdapter(torch.optim.Optimizer):
    """What Lightning sees of Megatron's optimizer.

    Lightning counts a global step each time an optimizer of its own type steps; Megatron's is not one.
    This adapter owns no parameters and no state: it forwards `step` and shares the parameter groups, so
    that learning-rate monitors read the true values.
    """

    def __init__(self, optimizer: MegatronOptimizer, on_step: Callable[[], None]) -> None:
        super().__init__([nn.Parameter(torch.zeros(1))], {})
        self.param_groups = list(optimizer.param_groups)
        self._on_step = on_step

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Runs Lightning's closure, then Megatron's update."""
        if closure is not None:
            closure()
        self._on_step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing: gradients live in Megatron's buffers and are cleared there."""
