"""Who imports whom, read from the syntax tree: imports inside functions and for type checkers count, too."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

FLOORS = {
    "errors": 0,
    "collector": 0,
    "machine": 0,
    "units": 0,
    "processes": 0,
    "plug_ins": 1,
    "bounded": 1,
    "rope": 2,
    "parallel": 2,
    "kernels": 3,
    "families": 3,
    "data": 4,
    "checkpoint": 4,
    "evaluation": 4,
    "model": 5,
    "search": 5,
    "engine": 6,
    "verification": 7,
    "config": 7,
    "nemo": 8,
    "advice": 8,
    "cli": 9,
    "launch": 2,
    "examples": 10,
}
"""A file imports from its own package or from a lower floor; docs/design.md draws them."""


def imported_modules(source: str, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute dotted name) of every import in a file's source.

    `from a import b` yields a.b: b may be a module, and if it is not, only the first two parts count.
    """
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def room_of(module: str) -> str | None:
    """The package (or floor-0 file) that a first-party module lives in; None for nemo_pi itself."""
    parts = module.split(".")
    if parts[0] == "examples":
        return "examples"
    return parts[1] if len(parts) > 1 else None


def module_of(path: Path, root: Path) -> tuple[str, bool]:
    """Dotted name of a file below `root`, and whether it is a package's own."""
    parts = path.relative_to(root).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    return ".".join(parts[:-1] if is_package else parts), is_package


def sources(root: Path) -> list[Path]:
    """Every Python file of the library and of the entry points."""
    return sorted([*(root / "nemo_pi").rglob("*.py"), *(root / "examples").rglob("*.py")])


def import_graph(root: Path) -> dict[str, set[str]]:
    """Each first-party module and the first-party modules that it imports, as files."""
    texts = {module_of(path, root): path.read_text(encoding="utf-8") for path in sources(root)}
    known = {module for module, _ in texts}
    graph: dict[str, set[str]] = {}
    for (module, is_package), text in texts.items():
        names = (name for _, name in imported_modules(text, module, is_package))
        found = (name if name in known else name.rpartition(".")[0] for name in names)
        graph[module] = {name for name in found if name in known and name != module}
    return graph


def cycles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Groups of modules each of which imports, by way of others, every other of its group."""
    reached = {module: _reachable(graph, module) for module in graph}
    groups = {
        tuple(sorted({module, *(other for other in reached[module] if module in reached.get(other, ()))}))
        for module in graph
    }
    return [list(group) for group in sorted(groups) if len(group) > 1]


def upward(graph: Mapping[str, Iterable[str]], floors: Mapping[str, int] = FLOORS) -> list[tuple[str, str]]:
    """(importer, imported) of every arrow that does not go to a lower floor or stay in its package."""
    arrows = ((module, name) for module, names in graph.items() for name in names)
    return [
        (module, name)
        for module, name in sorted(arrows)
        if (own := room_of(module)) is not None
        and (other := room_of(name)) not in (None, own)
        and floors.get(other or "", 99) >= floors.get(own, -1)
    ]


def floors_of(root: Path) -> dict[str, int]:
    """FLOORS as the files below `root` declare them: another commit may have had others.

    Raises:
        FileNotFoundError: no file there declares any.
    """
    for name in ("tools/imports.py", "tests/unit/test_import_floors.py"):
        path = root / name
        tree = ast.parse(path.read_text(encoding="utf-8")) if path.is_file() else ast.Module([], [])
        for node in tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FLOORS":
                return dict(ast.literal_eval(node.value))
    raise FileNotFoundError(f"{root}: no file declares FLOORS")


def _reachable(graph: Mapping[str, Iterable[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting.extend(graph.get(module, ()))
    return found
