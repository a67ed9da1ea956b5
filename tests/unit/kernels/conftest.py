"""Triton kernels run in Triton's interpreter where there is no GPU."""

from __future__ import annotations

import os

import pytest
import torch

# Read when a kernel is defined, so it has to be set before the first import of one.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same random tensors in every run."""
    torch.manual_seed(0)
