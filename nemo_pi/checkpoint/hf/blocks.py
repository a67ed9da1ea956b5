"""A Megatron parameter in blocks of rows, and the rows of Hugging Face's tensors that each is made of.

A rank holds its own part of the model and one block beside it, however large a tensor is: not the tensor, nor
a second copy of a fused one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from nemo_pi.checkpoint.hf.folder import share_of
from nemo_pi.families.shape import ModelShape
from nemo_pi.families.weights import WeightRule

BLOCK_NUMBERS = 2**20
"""Numbers of a block, about: 4 MiB of fp32, and for a moment as much again where values are checked."""

Rows = tuple[int, int]
"""First row, and the one behind the last."""


@dataclass(frozen=True)
class Block:
    """Some rows of one rank's parameter."""

    rows: Rows
    """Of the parameter."""
    parts: tuple[tuple[int, Rows], ...]
    """Number of each part that goes into it, and that part's rows, counted in its stored tensor. The parts of
    a block are fused as those of the whole parameter are."""


def blocks(
    rule: WeightRule, shape: ModelShape, rank: int, size: int, *, most: int = BLOCK_NUMBERS
) -> Iterator[Block]:
    """Every row that tensor-parallel rank `rank` of `size` holds, but for padding of a vocabulary.

    Raises:
        CheckpointError: the rows cannot be shared by that many ranks.
    """
    spans = [_own_rows(rule, number, shape, rank, size) for number in range(len(rule.huggingface))]
    width = max(prod(sizes[1:]) for sizes in rule.sizes(shape))
    if rule.by_group:
        groups = shape.num_query_groups // size
        rows = sum(end - first for first, end in spans) // groups
        yield from _together(spans, groups, max(1, most // (rows * width)))
    elif rule.rotated:
        # Heads have to stay whole, and nothing says how many rows one has.
        yield from _together(spans, 1, 1)
    else:
        yield from _one_by_one(spans, max(1, most // width))


def _together(spans: Sequence[Rows], units: int, step: int) -> Iterator[Block]:
    """All parts at once, some of their equal units at a time."""
    sizes = [(end - first) // units for first, end in spans]
    for first in range(0, units, step):
        end = min(first + step, units)
        parts = [
            (start + first * rows, start + end * rows) for (start, _), rows in zip(spans, sizes, strict=True)
        ]
        yield Block((first * sum(sizes), end * sum(sizes)), tuple(enumerate(parts)))


def _one_by_one(spans: Sequence[Rows], step: int) -> Iterator[Block]:
    """Parts that lie below each other in the parameter."""
    above = 0
    for number, (start, end) in enumerate(spans):
        for first in range(start, end, step):
            last = min(first + step, end)
            yield Block((above + first - start, above + last - start), ((number, (first, last)),))
        above += end - start


def _own_rows(rule: WeightRule, number: int, shape: ModelShape, rank: int, size: int) -> Rows:
    """This rank's rows of a part, in the tensor that holds it."""
    first, rows = rule.first_rows(shape)[number], rule.sizes(shape)[number][0]
    if rule.split_dim != 0:
        return first, first + rows
    if rule.is_vocabulary:
        share = shape.vocab_rows(size)
        return first + min(rank * share, rows), first + min((rank + 1) * share, rows)
    share = share_of(rule.huggingface[number], 0, rows, size)
    return first + rank * share, first + (rank + 1) * share
