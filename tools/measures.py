"""Measures of the sources, each a number: lengths, docstrings, annotations, comments, private helpers."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

LONG_FILE = 200
"""Lines that a file should not exceed."""
LONG_FUNCTION = 40
"""Lines that a function should not exceed."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """A Python file, read."""

    name: str
    """Path relative to the root."""
    text: str
    """Its content."""
    tree: ast.Module
    """Its syntax."""

    @property
    def lines(self) -> int:
        """Lines, blank ones included."""
        return len(self.text.splitlines())

    def functions(self) -> Iterator[Function]:
        """Every function and method, nested ones included."""
        return (node for node in ast.walk(self.tree) if isinstance(node, Function))


def read(root: Path, folder: str = "nemo_pi") -> list[Source]:
    """Every Python file below a folder that holds more than a docstring."""
    found = []
    for path in sorted((root / folder).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        if path.name != "__init__.py" or len(tree.body) > 1:
            found.append(Source(path.relative_to(root).as_posix(), text, tree))
    return found


def length(function: Function) -> int:
    """Lines from `def` to the end, docstring included, decorators not."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def percentile(numbers: Sequence[int], share: float) -> int:
    """The number that `share` of all do not exceed (the nearest rank)."""
    return sorted(numbers)[max(0, round(share * len(numbers)) - 1)]


def long_functions(sources: Sequence[Source]) -> list[tuple[str, int]]:
    """("file:function", lines) of functions over LONG_FUNCTION lines, longest first."""
    lengths = [(f"{s.name}:{f.name}", length(f)) for s in sources for f in s.functions()]
    return sorted((item for item in lengths if item[1] > LONG_FUNCTION), key=lambda item: -item[1])


def long_files(sources: Sequence[Source]) -> list[tuple[str, int]]:
    """(file, lines) of files over LONG_FILE lines, longest first."""
    return sorted(((s.name, s.lines) for s in sources if s.lines > LONG_FILE), key=lambda item: -item[1])


def public(source: Source) -> Iterator[ast.ClassDef | Function]:
    """Public classes and functions of a file, and public methods of its public classes."""
    for node in source.tree.body:
        if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                inner = (item for item in node.body if isinstance(item, Function))
                yield from (item for item in inner if not item.name.startswith("_"))


def documented(sources: Sequence[Source]) -> float:
    """Share of files, public classes, functions and methods that have a docstring."""
    return _share([s.tree for s in sources] + [n for s in sources for n in public(s)], _has_docstring)


def annotated(sources: Sequence[Source]) -> float:
    """Share of functions whose arguments and result all have types."""
    return _share([f for s in sources for f in s.functions()], _is_annotated)


def commented(sources: Sequence[Source]) -> float:
    """Share of lines that hold nothing but a comment."""
    comments = sum(
        1
        for source in sources
        for token in tokenize.generate_tokens(io.StringIO(source.text).readline)
        if token.type == tokenize.COMMENT and token.line.lstrip().startswith("#")
    )
    return comments / sum(source.lines for source in sources)


def called_once(sources: Sequence[Source]) -> float:
    """Share of private functions and methods that their own file names exactly once."""
    used: list[int] = []
    for source in sources:
        private = {f.name for f in source.functions() if f.name.startswith("_") and f.name[:2] != "__"}
        names = [node.id for node in ast.walk(source.tree) if isinstance(node, ast.Name)]
        names += [node.attr for node in ast.walk(source.tree) if isinstance(node, ast.Attribute)]
        used += [names.count(name) for name in private]
    return used.count(1) / len(used)


def naming(sources: Sequence[Source], word: str) -> list[str]:
    """Files whose code names something: as a string, a variable, an attribute, a class or an import.

    Docstrings and comments do not count, nor words of which it is a part.
    """
    wanted = word.lower().replace("_", "")

    def meant(text: str | None) -> bool:
        return text is not None and wanted in [text.lower().replace("_", ""), *text.lower().split(".")]

    return [source.name for source in sources if any(map(meant, _names(source.tree)))]


def _names(tree: ast.AST) -> Iterator[str | None]:
    documents = {id(text) for node in ast.walk(tree) if (text := _docstring(node)) is not None}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents:
            yield node.value
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.ClassDef | Function):
            yield node.name
        elif isinstance(node, ast.ImportFrom):
            yield node.module
        elif isinstance(node, ast.alias):
            yield node.name


def _docstring(node: ast.AST) -> ast.expr | None:
    body = getattr(node, "body", None)
    first = body[0] if isinstance(body, list) and body else None
    return first.value if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) else None


def _has_docstring(node: ast.Module | ast.ClassDef | Function) -> bool:
    return ast.get_docstring(node) is not None


def _is_annotated(function: Function) -> bool:
    given = function.args
    arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    arguments += [item for item in (given.vararg, given.kwarg) if item is not None]
    typed = [a.annotation is not None for a in arguments if a.arg not in ("self", "cls")]
    return all(typed) and function.returns is not None


def _share(items: Sequence[ast.AST], holds: Callable[..., bool]) -> float:
    return sum(map(holds, items)) / len(items)
