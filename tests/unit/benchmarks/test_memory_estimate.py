"""The memory benchmark asks for the runs it names, and still runs from command line to result files."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from benchmarks.memory_estimate import Case, cases, main, run_of


def test_every_case_resolves() -> None:
    for device in ("cpu", "cuda"):
        wanted = cases(argparse.Namespace(quick=False, device=device))
        assert len({(case.size, case.length) for case in wanted}) >= 3
        for case in wanted:
            run = run_of(case)
            assert run.training_length == case.length
            assert (run.engine.build.loss_chunk_tokens is None) == (case.loss == "full")
            assert (run.recompute.granularity == "full") == case.recompute
    assert run_of(Case("4x256", 64)).shape.num_layers == 4


@pytest.mark.slow
def test_quick(tmp_path: Path) -> None:
    main(["--quick", "--results", str(tmp_path)])
    (written,) = tmp_path.glob("*-memory_estimate-quick-*.json")
    record = json.loads(written.read_text(encoding="utf-8"))
    (row,) = record["rows"]
    assert row["measured"] > 0
    assert row["resident"] > 0
    assert "of the measured peak" in record["verdict"]
