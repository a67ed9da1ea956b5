"""Every benchmark still runs from its command line to its result files, and one that fails stops no other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as everything

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("train_step", "train_step-quick"),
        ("growth", "growth-quick"),
        ("profile_step", "profile_step-quick"),
        ("loss_memory", "loss-memory-512x1024x64"),
    ],
)
def test_quick(name: str, file: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--results", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (written,) = tmp_path.glob(f"*-{file}-*.json")
    record = json.loads(written.read_text(encoding="utf-8"))
    assert record["verdict"].startswith("Ahead")
    assert record["rows"] and record["raw"]
    assert not any("Not finished" in note for note in record["notes"])
    assert written.with_suffix(".png").stat().st_size > 10_000
    assert f"{name}: about 1 min" in done.stdout


def test_every_script_is_run_by_all() -> None:
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    # It shows one design's memory, beside nobody, on several processes.
    alone = {"context_parallel_memory"}
    assert scripts - {"__init__", "__main__", "harness"} - alone == set(everything.MINUTES)


def test_one_that_fails_stops_no_other(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(everything, "MINUTES", {"no_such_script": 1, "harness": 1})
    assert everything.main([]) == 1
    out = capfd.readouterr().out
    assert "About 2 min on two idle cores: no_such_script 1, harness 1." in out
    assert "\nharness: " in out and out.strip().endswith("Failed: no_such_script.")
    with pytest.raises(SystemExit):
        everything.parse(["rop"])
