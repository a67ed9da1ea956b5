"""Which Hugging Face tensors a Megatron parameter is made of: one row of a family's table.

Every Megatron parameter is one fusion of parts. A part is a Hugging Face tensor or, where a checkpoint
stores several in one, some rows of it; tensor parallelism splits each part evenly along one dimension (or not
at all). So a rank slices first and fuses afterwards, and an export unfuses first and concatenates afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from nemo_pi.families.shape import ModelShape

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class WeightRule:
    """One row of a family's table."""

    megatron: str
    """Megatron's parameter name, with `{n}` for the global layer number."""
    huggingface: tuple[str, ...]
    """The Hugging Face tensor of each part, in the order parts are fused. Neighbours of one name are rows of
    one tensor, the first part on top."""
    sizes: Callable[[ModelShape], tuple[Sizes, ...]]
    """Whole shapes of the parts."""
    split_dim: int | None
    """Dimension of each part that tensor parallelism splits; None for a replica."""
    by_group: bool = False
    """Whether query, key and value rows are interleaved by key/value group (Megatron's fused qkv) instead of
    stacked. A single part is stored so already."""
    rotated: tuple[int, ...] = ()
    """Parts whose rows are channels of heads that are rotated, and so follow the order of channels. Of a
    single part by group, its query and key rows."""

    @property
    def is_vocabulary(self) -> bool:
        """Whether its rows are tokens: what lies outside the layers and is split by rows. Ranks that cannot
        share them evenly hold padding behind the last one; no stored tensor does."""
        return self.split_dim == 0 and not self.megatron.startswith("decoder.")

    def names(self, layer: int | None) -> tuple[str, ...]:
        """The Hugging Face name of each part in layer `layer` (0-based; None outside the layers)."""
        return tuple(name.format(n=layer) for name in self.huggingface)

    def tensors(self, shape: ModelShape, layer: int | None) -> dict[str, Sizes]:
        """The Hugging Face tensors of this row with their whole shapes."""
        whole: dict[str, Sizes] = {}
        for name, (rows, *others) in zip(self.names(layer), self.sizes(shape), strict=True):
            whole[name] = (whole[name][0] + rows if name in whole else rows, *others)
        return whole

    def first_rows(self, shape: ModelShape) -> tuple[int, ...]:
        """Row of its tensor at which each part begins."""
        ends: dict[str, int] = {}
        starts = []
        for name, sizes in zip(self.huggingface, self.sizes(shape), strict=True):
            starts.append(ends.get(name, 0))
            ends[name] = starts[-1] + sizes[0]
        return tuple(starts)

    def num_parameters(self, shape: ModelShape, tp: int = 1) -> int:
        """Numbers in this row that one of `tp` tensor-parallel ranks holds."""
        return sum(map(prod, self.sizes(shape))) // (1 if self.split_dim is None else tp)


LAYER = "decoder.layers.{n}."
"""How Megatron's names of a layer's parameters begin."""

# Transformer Engine fuses each norm into the linear layer behind it; the parameter is the same.
_ENGINE_NAMES = {
    f"{linear}.layer_norm_{end}": f"{norm}.{end}"
    for linear, norm in (
        ("self_attention.linear_qkv", "input_layernorm"),
        ("mlp.linear_fc1", "pre_mlp_layernorm"),
    )
    for end in ("weight", "bias")
}

_LAYER_PATTERN = re.compile(r"^decoder\.layers\.(\d+)\.(.+)$")


def split_name(megatron: str) -> tuple[str, int | None]:
    """A Megatron parameter name as (table name, layer number): `decoder.layers.3.x` gives
    (`decoder.layers.{n}.x`, 3). Wrappers' `module.` prefixes and Transformer Engine's norm names are
    brought back to the table's spelling."""
    while megatron.startswith("module."):
        megatron = megatron.removeprefix("module.")
    match = _LAYER_PATTERN.match(megatron)
    if match is None:
        return megatron, None
    inner = match.group(2)
    return LAYER + _ENGINE_NAMES.get(inner, inner), int(match.group(1))
