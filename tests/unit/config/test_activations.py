"""What of the forward pass a YAML asks to keep, and where."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nemo_pi.config.activations import chunk_size, resolve_mlp_chunk
from nemo_pi.config.plan import render_plan
from nemo_pi.config.schema import ModelConfig
from nemo_pi.errors import ConfigError
from tests.unit.config.builders import SHAPE, run_of


@pytest.mark.parametrize(("given", "tokens"), [(None, None), (7, 7), ("auto", 1024), (10**9, 10**9)])
def test_slices_of_the_mlp(given: Any, tokens: int | None) -> None:
    assert resolve_mlp_chunk(replace(ModelConfig(), mlp_chunk_size=given), SHAPE) == tokens
    assert run_of({"mlp_chunk_size": given}).engine.build.mlp_chunk_tokens == tokens


def test_slices_grow_with_the_model() -> None:
    assert [chunk_size(width) for width in (64, 4096, 16384)] == [1024, 4096, 16384]


@pytest.mark.parametrize("given", [0, -1, "all"])
def test_no_number_of_tokens(given: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_mlp_chunk(replace(ModelConfig(), mlp_chunk_size=given), SHAPE)
    assert caught.value.field == "model.mlp_chunk_size"


def test_the_plan_says_whether_anything_is_sliced() -> None:
    assert "MLP  " not in render_plan(run_of())
    assert "1,024 tokens at a time\n" in render_plan(run_of({"mlp_chunk_size": "auto"}))
    assert "8,192 tokens at a time, which is all of them at once" in render_plan(
        run_of({"mlp_chunk_size": 8192})
    )
