"""Measures of sources whose answers are plain to see."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import measures

TEXT = '''"""A file."""

import os

# why
PATH = "longrope"  # not a line of its own


class Shown:
    """A class."""

    def method(self, a: int) -> int:
        return self._once(a) + _twice() + _twice()

    def _once(self, a: int) -> int:
        """longrope"""
        return a


def _twice() -> int:
    def inner(b):
        return b

    return os.getpid()


def untyped(a) -> None:
    """Its argument has no type."""
'''


@pytest.fixture
def sources(tmp_path: Path) -> list[measures.Source]:
    (tmp_path / "nemo_pi").mkdir()
    (tmp_path / "nemo_pi" / "file.py").write_text(TEXT)
    (tmp_path / "nemo_pi" / "__init__.py").write_text('"""Nothing else."""\n')
    return measures.read(tmp_path)


def test_lengths(sources: list[measures.Source]) -> None:
    assert [(source.name, source.lines) for source in sources] == [("nemo_pi/file.py", 28)]
    lengths = {function.name: measures.length(function) for function in sources[0].functions()}
    assert lengths == {"method": 2, "_once": 3, "_twice": 5, "inner": 2, "untyped": 2}


def test_shares(sources: list[measures.Source]) -> None:
    assert measures.documented(sources) == pytest.approx(3 / 4)  # file, class, untyped; not method
    assert measures.annotated(sources) == pytest.approx(3 / 5)
    assert measures.commented(sources) == pytest.approx(1 / 28)
    assert measures.called_once(sources) == pytest.approx(1 / 2)


def test_what_the_code_names(sources: list[measures.Source]) -> None:
    for word in ("longrope", "LongRope", "shown", "PATH", "os"):
        assert measures.naming(sources, word) == ["nemo_pi/file.py"], word
    for word in ("why", "rope", "Nothing"):
        assert measures.naming(sources, word) == [], word


def test_nearest_ranks() -> None:
    assert [measures.percentile(range(1, 101), share) for share in (0.5, 0.95, 1.0)] == [50, 95, 100]
    assert measures.percentile([7], 0.5) == 7


def test_the_long_are_named(tmp_path: Path) -> None:
    (tmp_path / "nemo_pi").mkdir()
    body = "def long():\n" + "    x = 1\n" * measures.LONG_FUNCTION
    (tmp_path / "nemo_pi" / "a.py").write_text(body + "\n" * measures.LONG_FILE)
    sources = measures.read(tmp_path)
    assert measures.long_functions(sources) == [("nemo_pi/a.py:long", measures.LONG_FUNCTION + 1)]
    assert measures.long_files(sources) == [("nemo_pi/a.py", measures.LONG_FILE + measures.LONG_FUNCTION + 1)]
