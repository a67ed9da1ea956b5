"""Contestants that cannot take part are known beforehand; a failure ends a turn, not the race in turns."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from benchmarks.training import race as module
from benchmarks.training.job import Job
from benchmarks.training.race import missing_package, race


def test_packages_are_looked_for_in_the_contestants_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OWN_PACKAGES", tmp_path)
    monkeypatch.setitem(module.NEEDS, "litgpt", ("a_package_of_nobody",))
    assert missing_package("litgpt-compiled") == "a_package_of_nobody"
    (tmp_path / "litgpt" / "a_package_of_nobody").mkdir(parents=True)
    (tmp_path / "litgpt" / "a_package_of_nobody" / "__init__.py").touch()
    importlib.invalidate_caches()
    assert missing_package("litgpt-compiled") is None


def test_everybody_has_torch_and_transformers() -> None:
    assert missing_package("transformers") is None


@pytest.mark.slow
def test_a_contestant_that_cannot_load_says_why(tmp_path: Path) -> None:
    """Alone or among others, whose race goes on."""
    job = Job("transformers", str(tmp_path / "nothing"), "2x64", 64, 64)
    race_of_two = race({"one": job, "two": job}, rounds=2, warmup=0)
    failed = race({"transformers": job}, rounds=2, warmup=0, in_turn=True)["transformers"]
    assert race_of_two["one"].failure.splitlines()[0] == failed.failure.splitlines()[0]
    assert failed.seconds == race_of_two["two"].seconds == []
    assert failed.failure.startswith("transformers: it ended with status 1\n") and "nothing" in failed.failure
