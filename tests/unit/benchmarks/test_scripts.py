"""Every training benchmark still runs from its command line to its result files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train_step", "growth", "profile_step"])
def test_quick(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--results", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (written,) = tmp_path.glob(f"*-{name}-quick-*.json")
    record = json.loads(written.read_text(encoding="utf-8"))
    assert record["verdict"].startswith("Ahead")
    assert record["rows"] and record["raw"]
    assert "about 1 min" in done.stdout
