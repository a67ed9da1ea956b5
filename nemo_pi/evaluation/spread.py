"""Moves labels apart that would touch."""

from __future__ import annotations

from collections.abc import Sequence


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Places at least `gap` apart, in the order of `wanted`, each group of neighbours around its mean."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    blocks: list[list[int]] = []
    for i in order:
        blocks.append([i])
        while len(blocks) > 1 and _overlap(blocks[-2], blocks[-1], wanted, gap):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    places = [0.0] * len(wanted)
    for block in blocks:
        for rank, i in enumerate(block):
            places[i] = _lowest(block, wanted, gap) + rank * gap
    return places


def _overlap(below: Sequence[int], above: Sequence[int], wanted: Sequence[float], gap: float) -> bool:
    return _lowest(below, wanted, gap) + len(below) * gap > _lowest(above, wanted, gap)


def _lowest(block: Sequence[int], wanted: Sequence[float], gap: float) -> float:
    """Return the place of a block's lowest label: the block is centred on the mean of its wanted places."""
    return sum(wanted[i] for i in block) / len(block) - (len(block) - 1) * gap / 2
