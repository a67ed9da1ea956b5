"""What megatron-core needs to run where there is no CUDA; entered only there, and only around its calls.

megatron-core names the CUDA device in its schedules, its point-to-point transfers and its gradient
clipping. Each line below says which of those it serves. With a GPU, `cpu_shim()` does nothing.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from megatron.core.optimizer import clip_grads
from megatron.core.pipeline_parallel import schedules
from megatron.core.tensor_parallel import random as megatron_random
from torch import Tensor
from torch.overrides import TorchFunctionMode


class _CpuForCuda(TorchFunctionMode):
    """Sends factory calls that name the CUDA device to the CPU, and hides the CPU in type strings."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        # distrib_optimizer.py moves gathered states to the GPU.
        if func is torch.Tensor.cuda:
            return args[0]
        device = kwargs.get("device")
        # schedules.py counts tokens, optimizer.py and clip_grads.py keep scalars on device="cuda".
        if device is not None and str(device).startswith("cuda"):
            kwargs = {**kwargs, "device": "cpu"}
        result = func(*args, **kwargs)
        # optimizer.py and clip_grads.py recognise parameters by "torch.cuda.FloatTensor" and its kin.
        if func is torch.Tensor.type and len(args) == 1 and not kwargs and isinstance(result, str):
            return result.replace("torch.", "torch.cuda.", 1)
        return result


# Modes that are entered, the innermost last.
_entered: list[_CpuForCuda] = []


@contextlib.contextmanager
def _mode() -> Iterator[None]:
    with _CpuForCuda() as mode:
        _entered.append(mode)
        try:
            yield
        finally:
            _entered.pop()


@contextlib.contextmanager
def _no_mode() -> Iterator[None]:
    """Leaves the modes for the `with` block, whose torch functions then cost nothing extra."""
    modes = _entered.copy()
    _entered.clear()
    for mode in reversed(modes):
        mode.__exit__(None, None, None)
    try:
        yield
    finally:
        for mode in modes:
            mode.__enter__()
        _entered.extend(modes)


def _outside(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with the modes left for as long as it runs."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with _no_mode():
            return function(*args, **kwargs)

    return run


def _scale(chunk: int, overflow: Tensor, tensors: Sequence[list[Tensor]], scale: float) -> None:
    """megatron.core.utils.local_multi_tensor_scale, which makes a second copy of every gradient, in place."""
    source, target = tensors
    if source is not target:
        torch._foreach_copy_(target, source)
    torch._foreach_mul_(target, scale)


_REPLACEMENTS: tuple[tuple[Any, str, Callable[..., Any]], ...] = (
    # p2p_communication.py and param_and_grad_buffer.py allocate on the current device.
    (torch.cuda, "current_device", lambda: "cpu"),
    # p2p_communication.py waits for its transfers; gloo's have arrived when wait() returns.
    (torch.cuda, "synchronize", lambda *_, **__: None),
    # random.py keeps the CUDA generator's state around recomputed layers; there is none to keep.
    (megatron_random, "_get_cuda_rng_state", lambda *_, **__: torch.empty(0, dtype=torch.uint8)),
    (megatron_random, "_set_cuda_rng_state", lambda *_, **__: None),
    # Embeddings under sequence parallelism fork a CUDA generator for dropout, which is always 0 here.
    (megatron_random.CudaRNGStatesTracker, "fork", lambda *_, **__: contextlib.nullcontext()),
    # A model's passes name CUDA only through the functions above, and call most of a step's functions.
    (schedules, "forward_step", _outside(schedules.forward_step)),
    (schedules, "backward_step", _outside(schedules.backward_step)),
    # clip_grads.py has no kernel of Transformer Engine's or apex's to clip with.
    (clip_grads, "multi_tensor_scale_impl", _scale),
)


@contextlib.contextmanager
def cpu_shim() -> Iterator[None]:
    """Lets megatron-core run on the CPU within the `with` block; transparent where CUDA exists."""
    if torch.cuda.is_available():
        yield
        return
    with contextlib.ExitStack() as undo:
        for owner, name, replacement in _REPLACEMENTS:
            original = getattr(owner, name)
            setattr(owner, name, replacement)
            undo.callback(setattr, owner, name, original)
        undo.enter_context(_mode())
        yield
