"""The mutation driver: which tests it runs, what it calls noticed, and that it leaves its copy as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import mutants
from tools.mutants import Mutant, equivalents, report, stages, verdict

ROOT = Path(__file__).resolve().parents[3]


def test_a_file_s_own_tests_come_first_then_those_that_import_it_then_its_neighbours() -> None:
    own, importing, near = stages("nemo_pi/data/jsonl.py", ROOT)
    assert own == ["tests/unit/data/test_jsonl.py"]
    assert "tests/unit/cli/test_search.py" in importing and "tests/unit/data/test_order.py" in near
    everything = [*own, *importing, *near]
    assert len(set(everything)) == len(everything)
    assert "tests/unit/rope/methods/test_yarn.py" in stages("nemo_pi/rope/methods/yarn.py", ROOT)[0]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A repository of one function and one test."""
    (tmp_path / "nemo_pi" / "data").mkdir(parents=True)
    (tmp_path / "tests" / "unit" / "data").mkdir(parents=True)
    (tmp_path / "nemo_pi" / "data" / "sums.py").write_text("def add(a, b):\n    return a + b\n")
    (tmp_path / "tests" / "unit" / "data" / "test_sums.py").write_text(
        "from runpy import run_path\n\n"
        "def test_add():\n    assert run_path('nemo_pi/data/sums.py')['add'](2, 0) == 2\n"
    )
    return tmp_path


def fault(line: str) -> Mutant:
    return Mutant("nemo_pi/data/sums.py", 2, "return a + b", line, f"def add(a, b):\n    {line}\n")


def test_a_fault_is_noticed_or_not_and_taken_back(copy: Path) -> None:
    log, source = copy / "log", copy / "nemo_pi" / "data" / "sums.py"
    before = source.read_text()
    assert verdict(fault("return a * b"), copy, log) == "tests/unit/data/test_sums.py::test_add"
    assert verdict(fault("return a - b"), copy, log) is None
    assert source.read_text() == before


def test_a_test_whose_name_has_blanks_notices_too(copy: Path) -> None:
    (copy / "tests" / "unit" / "data" / "test_sums.py").write_text(
        "import pytest\nfrom runpy import run_path\n\n"
        "@pytest.mark.parametrize('given', [2], ids=['{a: 2} - two'])\n"
        "def test_add(given):\n    assert run_path('nemo_pi/data/sums.py')['add'](given, 0) == 2\n"
    )
    noticed = verdict(fault("return a * b"), copy, copy / "log")
    assert noticed is not None and noticed.endswith("test_sums.py::test_add[{a: 2} - two]")


def test_a_fault_that_never_ends_is_noticed(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutants, "SECONDS", 2)
    assert verdict(fault("while True: pass"), copy, copy / "log") == "timeout"


def test_the_report_counts_what_can_be_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed, same, missed = fault("return a * b"), fault("return b + a"), fault("return a | b")
    file = tmp_path / "equivalent.txt"
    file.write_text(f"a comment\n{same.name} # sums commute\n")
    assert equivalents(file) == {same.name: "sums commute"}
    monkeypatch.setattr(mutants, "equivalents", lambda: equivalents(file))
    text = report([(killed, "test_sums.py::test_add"), (same, None), (missed, None)], 7)
    assert "1 of 2, 50%" in text and "seed 7: 3 faults" in text
    assert "equivalent: sums commute" in text and "`return a \\| b` | **nobody**" in text


def test_faults_are_drawn_by_their_seed() -> None:
    pytest.importorskip("cosmic_ray", reason="make mutants installs it")
    first, again = (mutants.drawn(ROOT, 3, 5, "data/splits.py") for _ in range(2))
    assert first == again != mutants.drawn(ROOT, 3, 6, "data/splits.py")
    assert all(mutant.before != mutant.after for mutant in first)
