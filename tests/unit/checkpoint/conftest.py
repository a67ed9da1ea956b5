"""Fixtures of the checkpoint tests: one gloo rank, and transformers' folders made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.unit.checkpoint.models import save_transformers_model, start_rank, stop_rank


@pytest.fixture
def single_rank() -> Iterator[None]:
    """A world of one, with Megatron's groups."""
    start_rank()
    yield
    stop_rank()


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An fp32 Llama in one safetensors file."""
    return save_transformers_model(tmp_path_factory.mktemp("llama") / "model")


@pytest.fixture(scope="session")
def sharded_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bf16 Llama in several shards with an index."""
    folder = tmp_path_factory.mktemp("sharded") / "model"
    return save_transformers_model(folder, dtype=torch.bfloat16, shard="60KB")


@pytest.fixture(scope="session")
def tied_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama whose output layer is its embedding."""
    return save_transformers_model(tmp_path_factory.mktemp("tied") / "model", tie_word_embeddings=True)


@pytest.fixture(scope="session")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An fp16 Mistral with a sliding window of 8 tokens."""
    folder = tmp_path_factory.mktemp("mistral") / "model"
    return save_transformers_model(folder, "mistral", dtype=torch.float16, sliding_window=8)
