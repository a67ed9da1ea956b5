"""Transformer Engine's and NVIDIA apex's rotary kernels behind the call of kernels/reference.py.

Both read one table row for each index of a sequence, the same for all sequences of a batch: they know no
positions per sample. A micro-batch of S tokens and B rows is therefore handed over as one sequence of S·B
tokens, each with a table row of its own, as a view where that is possible. So PoSE, packing and offsets work.

Shapes: S sequence, B batch, N heads, D channels of a head, F = rotated channels / 2, C = 2F.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor


def is_installed(module: str) -> bool:
    """Whether a compiled module is there; Transformer Engine loads its own by path, from its own folder."""
    if find_spec(module) is not None:
        return True
    package, _, kind = module.rpartition("_")
    parent = find_spec(package) if kind == "torch" else None
    folders = [Path(folder) for folder in (parent.submodule_search_locations or ())] if parent else []
    return any(
        next(place.glob(f"{module}.*"), None)
        for folder in folders
        for place in (folder, folder / "wheel_lib")
    )


def rotate_with_transformer_engine(
    q: Tensor, k: Tensor, cos_F: Tensor, sin_F: Tensor, interleaved: bool = False
) -> tuple[Tensor, Tensor]:
    """Transformer Engine's fused kernel. It takes angles in fp32, so the temperature must be 1."""
    try:
        from transformer_engine.pytorch.attention.rope import apply_rotary_pos_emb
    except ImportError:  # where Transformer Engine 2.0 and 2.1 keep it
        from transformer_engine.pytorch.attention import apply_rotary_pos_emb
    # The angle within a turn: as good as the position times the frequency, and exact far out as well.
    angle_TC = full_width(torch.atan2(sin_F, cos_F), q, interleaved)
    kernel = partial(apply_rotary_pos_emb, tensor_format="sbhd", interleaved=interleaved, fused=True)
    return as_one_sequence(kernel, q, angle_TC), as_one_sequence(kernel, k, angle_TC)


def rotate_with_apex(
    q: Tensor, k: Tensor, cos_F: Tensor, sin_F: Tensor, interleaved: bool = False
) -> tuple[Tensor, Tensor]:
    """Apex's fused kernel. It rounds the tables to q's dtype, so q and k must be fp32."""
    from apex.transformer.functional import fused_apply_rotary_pos_emb_cached as kernel

    assert not interleaved, "apex was selected for a layout it does not know"
    cos_TC, sin_TC = (full_width(table, q, interleaved) for table in (cos_F, sin_F))
    return as_one_sequence(kernel, q, cos_TC, sin_TC), as_one_sequence(kernel, k, cos_TC, sin_TC)


def as_one_sequence(kernel: Callable[..., Tensor], x_ND: Tensor, *tables_TC: Tensor) -> Tensor:
    """`kernel`, made for [sequence, batch, N, D] and tables [sequence, 1, 1, C], on every token of x_ND."""
    tokens = x_ND.reshape(-1, 1, *x_ND.shape[-2:])
    return kernel(tokens, *(table[:, None, None] for table in tables_TC)).view(x_ND.shape)


def full_width(table: Tensor, x_ND: Tensor, interleaved: bool) -> Tensor:
    """A table as kernels/reference.py takes it, as [tokens, C]: one number for each rotated channel."""
    if table.dim() == x_ND.dim():
        table = table.squeeze(-2)
    rows = table.expand(*x_ND.shape[:-2], table.shape[-1]).reshape(-1, table.shape[-1])
    return rows.repeat_interleave(2, dim=-1) if interleaved else torch.cat((rows, rows), dim=-1)
