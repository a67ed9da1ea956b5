"""Fixtures of the rotary tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from nemo_pi.rope.spec import ContextExtension
from tests.unit.rope.peers import METHODS, make_spec


@pytest.fixture(params=METHODS)
def spec(request: pytest.FixtureRequest) -> ContextExtension:
    """A small spec of every method in turn."""
    return make_spec(request.param)


@pytest.fixture
def set_default_dtype() -> Iterator[Callable[[torch.dtype], None]]:
    """Sets torch's default dtype for one test."""
    before = torch.get_default_dtype()
    yield torch.set_default_dtype
    torch.set_default_dtype(before)
