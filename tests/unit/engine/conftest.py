"""Fixtures of the training tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.nemo.runs import make_inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A start model and data, read by every test of a file and changed by none."""
    return make_inputs(tmp_path_factory.mktemp("inputs"))
