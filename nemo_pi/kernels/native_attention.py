"""Attention by the compiled kernel for CPUs (csrc/attention.c): causal or not, fp32, no matrix of scores.

Shape legend: B batch, N query heads, G key/value heads, Q queries, K keys, D head dim, C chunks.
"""

from __future__ import annotations

import ctypes
import math
from ctypes import POINTER, c_float, c_int64, c_void_p

import torch
from torch import Tensor

from nemo_pi.kernels.native import library, usable_for

_WIDEST = 256
# Queries that csrc/attention.c works on together.
_BAND = 192


class _Shape(ctypes.Structure):
    _fields_ = [
        *((name, c_int64) for name in ("batch", "heads", "groups", "queries", "keys", "width")),
        *((name, c_int64) for name in ("visible", "step", "chunks", "threads")),
        ("scale", c_float),
    ]


class _View(ctypes.Structure):
    _fields_ = [("data", c_void_p)] + [(name, c_int64) for name in ("chunk", "batch", "head", "token")]


class _Job(ctypes.Structure):
    _fields_ = [
        ("shape", POINTER(_Shape)),
        *((name, _View) for name in ("q", "k", "v", "out")),
        ("lse", c_void_p),
        *((name, _View) for name in ("grad", "dq", "dk", "dv")),
    ]


def takes(q_BNQD: Tensor, k_BGKD: Tensor, v_BGKD: Tensor) -> bool:
    """Whether the kernel runs here and takes heads like these."""
    fits = takes_width(q_BNQD.size(-1)) and k_BGKD.shape == v_BGKD.shape and q_BNQD.numel() > 0
    return fits and usable_for(q_BNQD, k_BGKD, v_BGKD)


def takes_width(head_dim: int) -> bool:
    """Whether the kernel takes heads of so many channels."""
    return head_dim % 16 == 0 and head_dim <= _WIDEST


def attend(
    q_BNQD: Tensor, k_BGKD: Tensor, v_BGKD: Tensor, *, causal: bool, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """Output [B, N, Q, D] and log-sum-exp [B, N, Q] of the scores, without a gradient.

    Args:
        q_BNQD, k_BGKD, v_BGKD: of which `takes` is true; N is a multiple of G, any strides.
        causal: query i stands at the place of key K − Q + i (Q ≤ K) and sees none behind it; else all keys.
        scale: of the scores; None for 1/√D.
    """
    q, k, v = _with_channels_together(q_BNQD, k_BGKD, v_BGKD)
    out, lse = tokens_first(q), q.new_empty(q.shape[:-1])
    shape = _shape(q, k, causal, scale, _chunks(q, k))
    _run(_Job(ctypes.pointer(shape), *map(_view, (q, k, v, out)), lse.data_ptr()), backward=False)
    return out, lse


def gradients(
    grad_BNQD: Tensor,
    q_BNQD: Tensor,
    k_BGKD: Tensor,
    v_BGKD: Tensor,
    out_BNQD: Tensor,
    lse_BNQ: Tensor,
    *,
    causal: bool,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, given that of the output.

    Output and log-sum-exp may be those of more keys than these; then this is the share of these keys
    (arXiv 2205.14135, algorithm 4). The other arguments are those of `attend`.
    """
    q, k, v, out, grad = _with_channels_together(q_BNQD, k_BGKD, v_BGKD, out_BNQD, grad_BNQD)
    chunks = _chunks(q, k)
    dq, lse = tokens_first(q), lse_BNQ.contiguous()
    # Each chunk of queries has gradients of its own, added up below in one order: which thread is done first
    # must not change a bit of the result.
    dk, dv = (tokens_first(x).unsqueeze(0) if chunks == 1 else x.new_empty(chunks, *x.shape) for x in (k, v))
    shape = _shape(q, k, causal, scale, chunks)
    views = (_view(grad), _view(dq), _chunked_view(dk), _chunked_view(dv))
    job = _Job(ctypes.pointer(shape), *map(_view, (q, k, v, out)), lse.data_ptr(), *views)
    _run(job, backward=True)
    dk, dv = (x[0] if chunks == 1 else x.sum(dim=0) for x in (dk, dv))
    return dq, dk, dv


def tokens_first(x_BNSD: Tensor) -> Tensor:
    """New [B, N, S, D] that lies in memory as [S, B, N, D], which is how the layers around want it."""
    batch, heads, length, width = x_BNSD.shape
    return x_BNSD.new_empty(length, batch, heads, width).permute(1, 2, 0, 3)


def _run(job: _Job, backward: bool) -> None:
    if library().nemo_pi_attend(ctypes.byref(job), int(backward)):
        raise MemoryError("attention found no memory to work in")


def _shape(q: Tensor, k: Tensor, causal: bool, scale: float | None, chunks: int) -> _Shape:
    batch, heads, queries, width = q.shape
    keys = k.size(2)
    assert queries <= keys or not causal, "causal queries stand at the places of keys"
    visible = keys - queries + 1 if causal else keys
    scale = 1 / math.sqrt(width) if scale is None else scale
    sizes = (batch, heads, k.size(1), queries, keys, width, visible, int(causal))
    return _Shape(*sizes, chunks, torch.get_num_threads(), scale)


def _chunks(q: Tensor, k: Tensor) -> int:
    """Parts that a key head's queries are dealt in, so that every thread has some.

    Depends on shapes and the number of threads alone, as the result must.
    """
    units, threads = k.size(0) * k.size(1), torch.get_num_threads()
    if units >= 4 * threads:
        return 1
    return min(threads // math.gcd(units, threads), -(-q.size(2) // _BAND))


def _with_channels_together(*tensors: Tensor) -> list[Tensor]:
    return [x if x.stride(-1) == 1 else x.contiguous() for x in tensors]


def _view(x: Tensor) -> _View:
    return _View(x.data_ptr(), 0, *x.stride()[:3])


def _chunked_view(x_C: Tensor) -> _View:
    return _View(x_C.data_ptr(), *x_C.stride()[:4])
