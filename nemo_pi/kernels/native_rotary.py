"""Rotation by the compiled kernel for CPUs (csrc/rotary.c): every head is read and written once.

Shapes: as kernels/rotation.py.
"""

from __future__ import annotations

import ctypes
from ctypes import c_int64, c_void_p

import torch
from torch import Tensor

from nemo_pi.kernels.native import library, pointer
from nemo_pi.kernels.rotation import Angles, Heads

_DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
# Elements below which starting threads takes longer than turning them.
_FEWEST = 2**14


class _Heads(ctypes.Structure):
    _fields_ = [("data", c_void_p)] + [(name, c_int64) for name in ("first", "second", "group", "head")]


class _Job(ctypes.Structure):
    _fields_ = [
        ("source", _Heads * 3),
        ("target", _Heads * 3),
        ("groups", c_int64 * 3),
        ("in_group", c_int64 * 3),
        *((name, c_int64) for name in ("first", "second", "width", "pairs")),
        ("cos", c_void_p),
        ("sin", c_void_p),
        *((name, c_int64) for name in ("table_first", "table_second")),
        *((name, c_int64) for name in ("interleaved", "inverse", "dtype", "threads")),
    ]


def rotate_heads(source: Heads, target: Heads, angles: Angles) -> None:
    """kernels.rotation.Rotation on a CPU, for fp32, bf16 and fp16 heads.

    Raises:
        TypeError: for other dtypes.
        BackendUnavailableError: where the compiled kernels do not run.
    """
    dtype = source.q.dtype
    if dtype not in _DTYPES or angles.cos_TUF.dtype is not torch.float32:
        raise TypeError(f"the compiled kernel turns fp32, bf16 and fp16 by fp32 tables, not {dtype} heads")
    sources = [x if x is None or x.stride(-1) == 1 else x.contiguous() for x in source]
    cos, sin = _table(angles.cos_TUF), _table(angles.sin_TUF)
    # The job has one set of strides for both tables.
    if cos.stride() != sin.stride():
        cos, sin = cos.contiguous(), sin.contiguous()
    first, second, _, _, width = source.q.shape
    elements = first * second * (source.q[0, 0].numel() if first and second else 0)
    job = _Job(
        source=(_Heads * 3)(*map(_heads, sources)),
        target=(_Heads * 3)(*map(_heads, target)),
        groups=(c_int64 * 3)(*(0 if x is None else x.size(2) for x in source)),
        in_group=(c_int64 * 3)(*(0 if x is None else x.size(3) for x in source)),
        **{"first": first, "second": second, "width": width, "pairs": angles.cos_TUF.size(-1)},
        **{"cos": pointer(cos), "sin": pointer(sin)},
        **{"table_first": cos.stride(0), "table_second": cos.stride(1)},
        **{"interleaved": angles.interleaved, "inverse": angles.inverse, "dtype": _DTYPES[dtype]},
        threads=torch.get_num_threads() if elements >= _FEWEST else 1,
    )
    library().nemo_pi_rotate(ctypes.byref(job))


def _heads(x: Tensor | None) -> _Heads:
    if x is None:
        return _Heads()
    assert x.stride(-1) == 1, "a target's channels are neighbours"
    return _Heads(x.data_ptr(), *x.stride()[:-1])


def _table(table_TUF: Tensor) -> Tensor:
    """With neighbouring pairs; tokens may share a row."""
    return table_TUF if table_TUF.stride(-1) == 1 else table_TUF.contiguous()
