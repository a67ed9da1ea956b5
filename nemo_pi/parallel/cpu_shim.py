"""What megatron-core needs to run where there is no CUDA; entered only there, and only around its calls.

megatron-core names the CUDA device in its schedules, its point-to-point transfers and its gradient
clipping. Each line below says which of those it serves. With a GPU, `cpu_shim()` does nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from megatron.core.tensor_parallel import random as megatron_random
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
        undo.enter_context(_CpuForCuda())
        yield
