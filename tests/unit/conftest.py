"""Fixtures of the unit tests: one rank with Megatron's process groups up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def one_rank() -> Iterator[None]:
    """A world of one rank, taken down after the file, so that no other file finds it up."""
    from nemo_pi.parallel import groups
    from nemo_pi.parallel.layout import ParallelLayout

    groups.ensure_process_group()
    groups.initialize(ParallelLayout(), seed=1234)
    yield
    groups.destroy()
