"""Where a search starts, against transformers' frequencies, and that no move leaves the space."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from nemo_pi.rope.spec import ContextExtension
from nemo_pi.search.factors import KNOWN, Space, as_numbers, factors_of


def extended(method: str) -> ContextExtension:
    return ContextExtension.build(original_window=512, target_window=4096, method=method, head_dim=64)


def test_the_factors_of_yarn_are_those_of_transformers() -> None:
    config = LlamaConfig(
        head_dim=64,
        max_position_embeddings=4096,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "original_max_position_embeddings": 512,
        },
    )
    theirs_F, _ = ROPE_INIT_FUNCTIONS["yarn"](config, device="cpu")
    plain_F = 10000.0 ** (-torch.arange(0, 64, 2) / 64)
    found = torch.tensor(as_numbers(factors_of(extended("yarn"))))
    torch.testing.assert_close(found, plain_F / theirs_F, atol=0.00501, rtol=0)


def test_interpolation_divides_all_alike_and_ntk_from_1_to_the_factor() -> None:
    assert factors_of(extended("linear")) == (800,) * 32
    ntk = factors_of(extended("ntk"))
    assert (ntk[0], ntk[-1]) == (100, 800)
    torch.testing.assert_close(
        torch.tensor(as_numbers(ntk)), 8 ** (torch.arange(32) / 31), atol=0.00501, rtol=0
    )


@pytest.mark.parametrize("method", KNOWN)
def test_every_move_stays_in_the_space_and_some_change_something(method: str) -> None:
    space, draws = Space.of(8.0), random.Random(1)
    first, second = factors_of(extended(method)), factors_of(extended("ntk"))
    assert space.holds(first)
    mutants, children = set(), set()
    for _ in range(200):
        mutants.add(space.mutated(first, draws))
        children.add(space.crossed(first, second, draws))
    assert all(map(space.holds, mutants | children))
    assert len(mutants) > 50
    assert len(children) > (20 if method == "yarn" else 0)
    assert all(
        mine in pair
        for child in children
        for mine, pair in zip(child, zip(first, second, strict=True), strict=True)
    )


@pytest.mark.parametrize("factors", [(100, 250, 249), (99, 100, 100), (100, 100, 901)])
def test_what_falls_or_lies_outside_is_not_in_the_space(factors: tuple[int, ...]) -> None:
    assert not Space.of(8.0).holds(factors)
    assert Space.of(8.0).holds((100, 249, 900))
