"""Blocks cover every row of every parameter once, and fuse to what the whole would."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from nemo_pi.checkpoint.hf.blocks import blocks
from nemo_pi.families.fusion import fuse
from nemo_pi.families.registry import families, family_of
from nemo_pi.families.shape import ModelShape
from nemo_pi.families.weights import WeightRule

SHAPE = ModelShape(3, 64, 80, 8, 4, 16, 97)
RULES = [
    pytest.param(family, rule, id=f"{family.name}-{rule.megatron}")
    for family in families()
    for rule in family.rules(replace(SHAPE, family=family.name, **family.fixed))
]


def filled(
    stored: list[torch.Tensor], rule: WeightRule, shape: ModelShape, rank: int, size: int, most: int
) -> torch.Tensor:
    """One rank's parameter, made block by block from whole parts."""
    found = []
    for block in blocks(rule, shape, rank, size, most=most):
        parts = []
        for number, (first, end) in block.parts:
            above = rule.first_rows(shape)[number]
            part = stored[number][first - above : end - above]
            parts.append(part.chunk(size, 1)[rank] if rule.split_dim == 1 else part)
        found.append(fuse(parts, rule, shape))
        assert block.rows == (sum(map(len, found[:-1])), sum(map(len, found)))
    return torch.cat(found)


@pytest.mark.parametrize("most", [1, 300, 10**9])
@pytest.mark.parametrize(("family", "rule"), RULES)
def test_blocks_make_the_parameter(family, rule: WeightRule, most: int) -> None:
    shape = replace(SHAPE, family=family.name, **family.fixed)
    stored = [torch.rand(sizes) for sizes in rule.sizes(shape)]
    for size in (1, 2, 4):
        for rank in range(size):
            own = [
                part if rule.split_dim is None else part.tensor_split(size, rule.split_dim)[rank]
                for part in stored
            ]
            if rule.is_vocabulary:
                share = shape.vocab_rows(size)
                own = [part[rank * share : (rank + 1) * share] for part in stored]
            assert torch.equal(filled(stored, rule, shape, rank, size, most), fuse(own, rule, shape))


def test_a_block_is_small() -> None:
    shape = ModelShape(2, 1024, 4096, 8, 8, 128, 50_000)
    for rule in family_of(shape).rules(shape):
        width = rule.sizes(shape)[0][-1]
        for block in blocks(rule, shape, 0, 1, most=2**20):
            rows = block.rows[1] - block.rows[0]
            assert rows * width <= 2**20 or rule.split_dim is None
        if rule.is_vocabulary:  # and no smaller than it has to be
            assert len(list(blocks(rule, shape, 0, 1, most=2**20))) == math.ceil(50_000 * 1024 / 2**20)


def test_a_rank_may_hold_nothing_but_padding() -> None:
    shape = replace(SHAPE, vocab_size=5)
    embedding = family_of(shape).embedding
    assert [shape.vocab_rows(size) for size in (1, 2, 4)] == [5, 3, 2]
    held = [[block.parts for block in blocks(embedding, shape, rank, 4)] for rank in range(4)]
    assert held == [[((0, rows),)] for rows in ((0, 2), (2, 4), (4, 5))] + [[]]
