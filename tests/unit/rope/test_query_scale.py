"""Queries that grow with their position, against transformers and against the formula in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers.models.ministral3.modeling_ministral3 import get_llama_4_attn_scale

from nemo_pi.errors import ConfigError
from nemo_pi.rope.query_scale import QueryScale


@pytest.mark.parametrize("window", [7, 64, 16384])
def test_equals_transformers(window: int) -> None:
    positions_BS = torch.tensor(
        [[0, 1, window - 1, window, window + 1], [0, 5, 3 * window, 40 * window, 10**6]]
    )
    theirs_BS = get_llama_4_attn_scale(positions_BS, 0.1, window)[:, 0, :, 0]
    assert torch.equal(QueryScale(0.1, window).at(positions_BS), theirs_BS)


def test_steps_are_where_the_formula_has_them_far_beyond_24_bits() -> None:
    """fp32 rounds 10^9 − 1 up into the next step."""
    scale, window = QueryScale(0.1, 1000), 1000
    for position in (10**9 - 1, 10**9, 10**9 + 999):
        expected = 1 + 0.1 * math.log(1 + position // window)
        assert float(scale.at(torch.tensor(position))) == pytest.approx(expected, rel=3e-7)
    assert scale.at(torch.tensor(10**9 - 1)) < scale.at(torch.tensor(10**9)) or window > 1


def test_is_one_within_the_window() -> None:
    assert torch.equal(QueryScale(0.5, 64).at(torch.arange(64)), torch.ones(64))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"beta": 0.1}, "query_scale.window"),
        ({"window": 64}, "query_scale.beta"),
        ({"beta": -0.1, "window": 64}, "query_scale.beta"),
        ({"beta": 0.1, "window": 0}, "query_scale.window"),
        ({"beta": 0.1, "windows": 64}, "did you mean 'window'"),
    ],
    ids=str,
)
def test_numbers_that_cannot_be_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        QueryScale.from_dict(values)
