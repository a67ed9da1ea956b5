"""What could run a stranger's file stands in one place each, or nowhere in the sources.

Read from the syntax tree, so that a new call is noticed where no attack was written for it yet.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Calls that run or import what their argument says.
FORBIDDEN = {
    ("eval",),
    ("exec",),
    ("__import__",),
    ("pickle", "load"),
    ("pickle", "loads"),
    ("pickle", "Unpickler"),
    ("yaml", "load"),
    ("yaml", "load_all"),
    ("yaml", "full_load"),
    ("yaml", "unsafe_load"),
    ("marshal", "loads"),
    ("joblib", "load"),
    ("shelve", "open"),
    ("runpy", "run_path"),
    ("os", "system"),
    ("instantiate",),
    ("import_module",),
    ("torch", "hub"),
}
IN_A_MODULE = {("instantiate",), ("import_module",)}
# Calls that read strangers' files, and the arguments that make data of them. A class of transformers' that is
# no Auto class has no code to load but its own.
REQUIRED = {
    ("torch", "load"): {"weights_only": True},
    ("np", "load"): {"allow_pickle": False},
    ("AutoTokenizer", "from_pretrained"): {"trust_remote_code": False, "local_files_only": True},
    ("AutoConfig", "from_pretrained"): {"trust_remote_code": False, "local_files_only": True},
    ("AutoModelForCausalLM", "from_pretrained"): {"trust_remote_code": False, "local_files_only": True},
}


def dotted(node: ast.expr) -> tuple[str, ...]:
    """The names of an attribute chain, outermost last: torch.load is ("torch", "load")."""
    if isinstance(node, ast.Attribute):
        return (*dotted(node.value), node.attr)
    return (node.id,) if isinstance(node, ast.Name) else ("",)


def complaints(source: str, where: str) -> Iterator[str]:
    """Every call in `source` that could run a file."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        # A bare eval is Python's; model.eval() is not.
        if name in FORBIDDEN or name[-2:] in FORBIDDEN or (len(name) > 1 and name[-1:] in IN_A_MODULE):
            yield f"{where}:{node.lineno}: {'.'.join(name)}"
        given = {
            keyword.arg: keyword.value.value
            for keyword in node.keywords
            if isinstance(keyword.value, ast.Constant)
        }
        for argument, value in REQUIRED.get(name[-2:], {}).items():
            if given.get(argument, ...) is not value:
                yield f"{where}:{node.lineno}: {'.'.join(name)} without {argument}={value}"


def test_no_call_in_the_sources_runs_a_file() -> None:
    files = [path for folder in ("nemo_pi", "examples", "demo") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 150, "the sources were not found"
    found = [
        complaint
        for path in files
        for complaint in complaints(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))
    ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "eval(text)",
        "import pickle\npickle.load(stream)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "transformers.AutoTokenizer.from_pretrained(path)",
        "AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True, local_files_only=True)",
        "hydra.utils.instantiate(cfg)",
        "importlib.import_module(name)",
        "yaml.load(text, Loader=yaml.Loader)",
    ],
)
def test_such_a_call_is_seen(source: str) -> None:
    assert list(complaints(source, "x"))


def test_a_safe_call_is_let_through() -> None:
    assert list(complaints("model.eval()\ntorch.load(path, weights_only=True)\njson.loads(text)", "x")) == []
