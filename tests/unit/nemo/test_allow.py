"""NeMo may build one class of this package, and no other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from nemo.core.classes import common

from nemo_pi.nemo.allow import RESTORABLE, allow_restoring
from nemo_pi.nemo.module import ContextExtensionModel


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = list(common.ALLOWED_TARGET_PREFIXES)
    common.ALLOWED_TARGET_PREFIXES[:] = [entry for entry in before if entry != RESTORABLE]
    yield
    common.ALLOWED_TARGET_PREFIXES[:] = before


def test_the_name_is_the_class_itself() -> None:
    assert f"{ContextExtensionModel.__module__}.{ContextExtensionModel.__qualname__}" == RESTORABLE


def test_exactly_one_entry_is_added_once() -> None:
    before = list(common.ALLOWED_TARGET_PREFIXES)
    allow_restoring()
    allow_restoring()
    assert [*before, RESTORABLE] == common.ALLOWED_TARGET_PREFIXES


def test_nothing_else_of_the_package_is_allowed() -> None:
    allow_restoring()
    assert not any("nemo_pi.nemo.run.run".startswith(entry) for entry in common.ALLOWED_TARGET_PREFIXES)
