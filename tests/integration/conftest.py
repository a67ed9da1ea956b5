"""One world for all integration tests of a session; runs made in it are kept to compare with."""

from __future__ import annotations

import pytest

from tests.integration.world import World, make_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Data, start models and finished runs."""
    return make_world(tmp_path_factory.mktemp("world"))
