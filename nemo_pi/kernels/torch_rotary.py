"""Rotation in PyTorch operators with few temporaries: what `torch` stands for, on any device.

The reference makes a dozen tensors as large as q; this one works through blocks of tokens that stay in a
core's cache and needs one temporary of that size. docs/performance.md has what it gains.

Shapes: as kernels/rotation.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from nemo_pi.kernels.rotation import Angles, Heads

_BLOCK_BYTES = 2**20
"""Bytes of heads, in the dtype computed with, that are turned at once: half of a usual second-level cache.
A CUDA device has no use for blocks, and takes everything at once."""


def rotate_heads(source: Heads, target: Heads, angles: Angles) -> None:
    """kernels.rotation.Rotation on PyTorch's operators."""
    cos, sin = _full_width(angles)
    for heads, turned in ((source.q, target.q), (source.k, target.k)):
        for x, y, block_cos, block_sin in _blocks(heads, turned, cos, sin):
            _turn(x, y, block_cos, block_sin, angles)
    if source.v is not None and target.v is not None:
        target.v.copy_(source.v)


def _full_width(angles: Angles) -> tuple[Tensor, Tensor]:
    """Factors [T, U, 1, 1, 2F] of a channel and of its partner; for interleaved pairs, complex numbers."""
    cos, sin = angles.cos_TUF, -angles.sin_TUF if angles.inverse else angles.sin_TUF
    if angles.interleaved:
        both = torch.complex(cos, sin)
        return both[:, :, None, None], both[:, :, None, None]
    full = torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)
    return full[0][:, :, None, None], full[1][:, :, None, None]


def _blocks(x: Tensor, y: Tensor, cos: Tensor, sin: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The four of them cut along the longer of the two leading axes."""
    axis = 0 if x.shape[0] >= x.shape[1] else 1
    row_bytes = math.prod(x.shape[2:]) * x.shape[1 - axis] * cos.real.element_size()
    rows = max(1, x.shape[axis] if x.is_cuda else _BLOCK_BYTES // max(1, row_bytes))
    yield from zip(*(tensor.split(rows, dim=axis) for tensor in (x, y, cos, sin)), strict=True)


def _turn(x: Tensor, y: Tensor, cos: Tensor, sin: Tensor, angles: Angles) -> None:
    width = angles.rotary_dim
    rotated, result = x[..., :width], y[..., :width]
    if angles.interleaved:
        _multiply_pairs(rotated, result, cos)
    else:
        work = rotated.to(cos.dtype)
        # Half the width away is every channel's partner, in both directions; the sign is in the table of
        # sines.
        partner = torch.roll(work, width // 2, dims=-1)
        # Unless `work` is a copy already, the products go straight to where they belong.
        out = result if work is rotated else work
        torch.mul(work, cos, out=out).addcmul_(partner, sin)
        if out is not result:
            result.copy_(out)
    if width < x.shape[-1] and x.data_ptr() != y.data_ptr():
        y[..., width:].copy_(x[..., width:])


def _multiply_pairs(x: Tensor, y: Tensor, factor: Tensor) -> None:
    """A pair of neighbouring channels is a complex number, and turning it is one product."""
    if x.dtype == factor.real.dtype and _has_even_strides(x) and _has_even_strides(y):
        torch.mul(_as_complex(x), factor, out=_as_complex(y))
        return
    pairs = _as_complex(x.to(factor.real.dtype).contiguous()) * factor
    y.copy_(torch.view_as_real(pairs).flatten(-2))


def _has_even_strides(x: Tensor) -> bool:
    even = all(step % 2 == 0 for step in x.stride()[:-1])
    return even and x.stride(-1) == 1 and x.storage_offset() % 2 == 0


def _as_complex(x: Tensor) -> Tensor:
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))
