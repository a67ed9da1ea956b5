"""Corpora for the data tests, written by megatron-core's own builder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

WritePair = Callable[..., str]


def _write_pair(prefix: Path, documents: Sequence[Sequence[int]], dtype: type = np.int32) -> str:
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype)
    for document in documents:
        builder.add_document(torch.tensor(document, dtype=torch.int64), [len(document)])
    builder.finalize(f"{prefix}.idx")
    return str(prefix)


@pytest.fixture(scope="session")
def write_pair() -> WritePair:
    """write_pair(prefix, documents, dtype) -> prefix."""
    return _write_pair


@pytest.fixture(scope="session")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Sequence[int]], str]:
    """numbered(lengths) -> prefix of a corpus whose tokens are 0, 1, 2, … in file order: each is unique."""
    folder = tmp_path_factory.mktemp("numbered")

    def make(lengths: Sequence[int]) -> str:
        edges = np.concatenate([[0], np.cumsum(lengths)])
        documents = [list(range(a, b)) for a, b in pairwise(edges)]
        return _write_pair(folder / str(len(list(folder.iterdir()))), documents)

    return make
