"""The kernels of csrc/, compiled when nemo_pi is installed: where they are, and whether they run here.

They are plain C for processors with AVX2 and FMA (attention's products with AVX-512 where there is), called
through ctypes, which lets other Python threads go on. Whoever installs without a C compiler does without
them. NEMO_PI_NATIVE=0 turns them off.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from nemo_pi.errors import BackendUnavailableError

SWITCH = "NEMO_PI_NATIVE"
"""Environment variable; 0 turns the kernels off for a process."""
WIDE = "nemo_pi_wide"
"""The library's variable that says whether it may use AVX-512."""
_FUNCTIONS = {
    "nemo_pi_attend": ctypes.c_int,
    "nemo_pi_rotate": None,
    "nemo_pi_rms_norm": None,
    "nemo_pi_rms_norm_backward": None,
    "nemo_pi_softmax": None,
    "nemo_pi_swiglu": None,
    "nemo_pi_swiglu_backward": None,
}


def obstacle() -> str | None:
    """Why the compiled kernels cannot be used in this process, or None if they can."""
    found = _load()
    return found if isinstance(found, str) else None


def usable_for(*tensors: Tensor) -> bool:
    """Whether the kernels run here and take tensors like these: fp32, on a CPU."""
    return all(x.dtype is torch.float32 and x.device.type == "cpu" for x in tensors) and obstacle() is None


def library() -> ctypes.CDLL:
    """The compiled kernels.

    Raises:
        BackendUnavailableError: they cannot be used here.
    """
    found = _load()
    if isinstance(found, str):
        raise BackendUnavailableError(
            "native kernels",
            required="kernels compiled for this processor",
            given=found,
            fix="install nemo_pi with a C compiler at hand, or ask for auto",
        )
    return found


def pointer(x: Tensor) -> ctypes.c_void_p:
    """Where a tensor's first element lies."""
    return ctypes.c_void_p(x.data_ptr())


@cache
def build() -> str:
    """Which build of the kernels this is: a hash of the file, or `none`."""
    files = _files()
    return hashlib.sha256(files[-1].read_bytes()).hexdigest()[:12] if files else "none"


def _files() -> list[Path]:
    return sorted(Path(__file__).parent.glob("_native*.so"))


@cache
def _load() -> ctypes.CDLL | str:
    """The library, or why there is none."""
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH}=0 turns them off"
    # PyTorch's answer rather than the processor's, so that ATEN_CPU_CAPABILITY limits these kernels, too.
    capability = torch.backends.cpu.get_cpu_capability()
    if capability not in ("AVX2", "AVX512"):
        return f"they need a processor with AVX2, and PyTorch calls this one {capability}"
    files = _files()
    if not files:
        return "nemo_pi was installed without a C compiler"
    try:
        # OpenMP's functions are found in the runtime that PyTorch has loaded for all to see.
        loaded = ctypes.CDLL(str(files[-1]))
        for name, result in _FUNCTIONS.items():
            getattr(loaded, name).restype = result
        ctypes.c_int.in_dll(loaded, WIDE).value = capability == "AVX512"
    except (OSError, AttributeError, ValueError) as error:
        return f"{files[-1].name} cannot be loaded: {error}"
    return loaded
