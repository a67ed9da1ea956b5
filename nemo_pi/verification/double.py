"""transformers' own code computed in float64, where it casts to fp32, too.

Norms, softmax and angles are cast to fp32 by the modelling code, whatever the model's dtype. Here these casts
go to float64, so that a model whose weights are float64 is computed in float64 throughout. Angles are then
position × inverse frequency exactly: transformers' inverse frequencies stay its own fp32 numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class InDouble(TorchFunctionMode):
    """Casts to fp32 become casts to float64."""

    def __init__(self) -> None:
        super().__init__()
        self._paused = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Casts within are what they say."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._paused:
            return func(*args, **kwargs)
        if func is Tensor.float:
            return args[0].double()
        if func is Tensor.to:
            args = tuple(torch.float64 if value is torch.float32 else value for value in args)
        if kwargs.get("dtype") is torch.float32 and any(isinstance(value, Tensor) for value in args):
            kwargs = {**kwargs, "dtype": torch.float64}
        return func(*args, **kwargs)

    def watch(self, model: nn.Module) -> None:
        """Lets modules that hold inverse frequencies choose them in fp32, as they do for their users.

        Methods that depend on the length compute theirs anew when called; a second call finds them chosen.
        """
        for module in model.modules():
            if has_frequencies(module):
                module.register_forward_pre_hook(self._choose, with_kwargs=True)

    def _choose(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        with self.paused():
            module.forward(*args, **kwargs)


def has_frequencies(module: nn.Module) -> bool:
    """Whether a module of transformers makes rotary tables: it has buffers of inverse frequencies."""
    return any(name.endswith("inv_freq") for name, _ in module.named_buffers(recurse=False))
