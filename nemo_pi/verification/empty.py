"""Models without memory for their weights, filled part by part where the forward pass arrives there.

So a model of any size takes the memory of its largest part: a layer, the embedding or the output layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from nemo_pi.parallel.cpu_memory import return_freed_memory

Fill = Callable[[nn.Module], None]
"""Gives every parameter of a part storage and its values."""


@contextmanager
def without_weights() -> Iterator[None]:
    """Parameters that are made within have shapes and no storage; buffers are made as ever.

    torch.device("meta") would leave tables such as inverse frequencies without values, too.
    """
    register = nn.Module.register_parameter

    def on_meta(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        # One that is on meta already may be shared (tied embeddings), and stays the same object.
        if param is not None and not param.is_meta:
            param = nn.Parameter(param.data.to("meta"), requires_grad=False)
        register(self, name, param)

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


class InTurn:
    """Fills parts of a model before each of their forward passes, and empties them behind it.

    Args:
        parts: modules that are called; no parameter is in two of them.
        fill: gives a part its weights.
        keep: whether a part that was filled stays so, for models that fit.
        passed: called behind each part, for a progress bar.
    """

    def __init__(
        self,
        parts: Iterable[nn.Module],
        fill: Fill,
        *,
        keep: bool,
        passed: Callable[[], None] = lambda: None,
    ) -> None:
        self._fill, self._keep, self._passed = fill, keep, passed
        self._filled: set[nn.Module] = set()
        for part in parts:
            part.register_forward_pre_hook(self._before)
            part.register_forward_hook(self._behind)

    def _before(self, part: nn.Module, args: Any) -> None:
        if part not in self._filled:
            self._fill(part)
            self._filled.add(part)

    def _behind(self, part: nn.Module, args: Any, output: Any) -> None:
        if not self._keep:
            empty(part)
            self._filled.discard(part)
            return_freed_memory()
        self._passed()


def empty(part: nn.Module) -> None:
    """Frees the storage of all parameters of a part."""
    for module in part.modules():
        for name, param in module._parameters.items():
            if param is not None and not param.is_meta:
                module._parameters[name] = nn.Parameter(param.data.to("meta"), requires_grad=False)


def give_storage(part: nn.Module, device: torch.device) -> None:
    """Storage for all parameters of a part, without values."""
    for module in part.modules():
        for name, param in module._parameters.items():
            if param is not None and param.is_meta:
                fresh = torch.empty(param.shape, dtype=param.dtype, device=device)
                module._parameters[name] = nn.Parameter(fresh, requires_grad=False)
