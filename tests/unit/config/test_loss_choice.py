"""Which loss a YAML asks for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nemo_pi.config.loss_choice import chunk_size, resolve_loss
from nemo_pi.config.schema import ModelConfig
from nemo_pi.errors import ConfigError
from tests.unit.config.builders import SHAPE


@pytest.mark.parametrize(
    ("changes", "chunk_tokens"),
    [
        ({}, 512),
        ({"loss": "chunked"}, 512),
        ({"loss": "full"}, None),
        ({"loss_chunk_size": 64}, 64),
        ({"loss": "chunked", "loss_chunk_size": 10**6}, 10**6),
        ({"cross_entropy_loss_fusion": True}, 512),
        ({"cross_entropy_loss_fusion": False}, None),
        ({"cross_entropy_loss_fusion": False, "loss": "full"}, None),
        ({"cross_entropy_loss_fusion": True, "loss": "chunked"}, 512),
    ],
)
def test_loss(changes: dict[str, Any], chunk_tokens: int | None) -> None:
    assert resolve_loss(replace(ModelConfig(), **changes), SHAPE) == chunk_tokens


@pytest.mark.parametrize(("hidden_size", "tokens"), [(64, 512), (1536, 768), (4096, 2048), (16384, 2048)])
def test_chunks_grow_with_the_model(hidden_size: int, tokens: int) -> None:
    assert chunk_size(hidden_size) == tokens
    shape = replace(SHAPE, hidden_size=hidden_size)
    assert resolve_loss(ModelConfig(), shape) == tokens


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"loss": "fused"}, "loss"),
        ({"loss_chunk_size": 0}, "loss_chunk_size"),
        ({"loss": "full", "loss_chunk_size": 512}, "loss_chunk_size"),
        ({"cross_entropy_loss_fusion": False, "loss_chunk_size": 512}, "loss_chunk_size"),
        ({"cross_entropy_loss_fusion": True, "loss": "full"}, "cross_entropy_loss_fusion"),
        ({"cross_entropy_loss_fusion": False, "loss": "chunked"}, "cross_entropy_loss_fusion"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_loss(replace(ModelConfig(), **changes), SHAPE)
    assert caught.value.field == f"model.{key}"
