"""The graph of imports, its cycles and its upward arrows; test_import_floors.py reads the sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.imports import FLOORS, cycles, floors_of, import_graph, module_of, upward

ROOT = Path(__file__).resolve().parents[3]


def test_cycles_are_groups() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"e2"}, "e2": {"e", "a"}}
    assert cycles(graph) == [["a", "b", "c"], ["e", "e2"]]
    assert cycles({"a": {"b"}, "b": set()}) == []


def test_arrows_that_do_not_go_down() -> None:
    graph = {
        "nemo_pi.rope.spec": {"nemo_pi.errors", "nemo_pi.rope.bound", "nemo_pi.model.gpt"},
        "nemo_pi.data.order": {"nemo_pi.checkpoint.files", "nemo_pi.rope.spec"},
    }
    assert upward(graph) == [
        ("nemo_pi.data.order", "nemo_pi.checkpoint.files"),
        ("nemo_pi.rope.spec", "nemo_pi.model.gpt"),
    ]


def test_a_graph_holds_lazy_and_relative_imports(tmp_path: Path) -> None:
    for name, text in {
        "__init__": "",
        "a": "def f():\n    from nemo_pi.b import thing\n",
        "b": "from . import a\nfrom .a import f\nimport os\n",
    }.items():
        (tmp_path / "nemo_pi").mkdir(exist_ok=True)
        (tmp_path / "nemo_pi" / f"{name}.py").write_text(text)
    graph = import_graph(tmp_path)
    assert graph["nemo_pi.a"] == {"nemo_pi.b"} and graph["nemo_pi.b"] == {"nemo_pi.a"}
    assert cycles(graph) == [["nemo_pi.a", "nemo_pi.b"]]


def test_names_of_modules() -> None:
    assert module_of(ROOT / "nemo_pi" / "errors.py", ROOT) == ("nemo_pi.errors", False)
    assert module_of(ROOT / "nemo_pi" / "rope" / "__init__.py", ROOT) == ("nemo_pi.rope", True)


def test_another_checkout_s_floors_are_read(tmp_path: Path) -> None:
    assert floors_of(ROOT) == FLOORS
    with pytest.raises(FileNotFoundError):
        floors_of(tmp_path)
    (tmp_path / "tests" / "unit").mkdir(parents=True)
    (tmp_path / "tests" / "unit" / "test_import_floors.py").write_text('X = 1\nFLOORS = {"a": 1}\n')
    assert floors_of(tmp_path) == {"a": 1}
