"""Measures of the house, printed as Markdown; `make house` writes them into docs/design.md.

python tools/house.py                  of this checkout
python tools/house.py --since COMMIT   beside those of a commit, measured by the same program
python tools/house.py --write          into docs/design.md, beside those of the commit before the four doors
python tools/house.py --check          fails on an import cycle, an upward import, or a page without the table
"""

from __future__ import annotations

import argparse
import functools
import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if not __package__:  # run as a file
    sys.path.insert(0, str(ROOT))

from tools import measures  # noqa: E402
from tools.imports import cycles, floors_of, import_graph, upward  # noqa: E402
from tools.recipes import BEFORE, RECIPES  # noqa: E402

PAGE = ROOT / "docs" / "design.md"
BEGIN, END = "<!-- house: written by `make house` -->", "<!-- /house -->"


@functools.cache
def figures(root: Path) -> dict[str, str]:
    """Every measure of a checkout, by name."""
    sources, graph = measures.read(root), import_graph(root)
    lines = [source.lines for source in sources]
    functions = [measures.length(function) for source in sources for function in source.functions()]
    found = {
        "files of nemo_pi; functions": f"{len(sources)}; {len(functions):,}",
        "file lines p50 / p95 / max": _spread(lines),
        "function lines p50 / p95 / max": _spread(functions),
        f"files over {measures.LONG_FILE} lines": str(len(measures.long_files(sources))),
        f"functions over {measures.LONG_FUNCTION} lines": str(len(measures.long_functions(sources))),
        "import cycles, lazy imports included": str(len(cycles(graph))),
        "upward imports": str(len(upward(graph, floors_of(root)))),
        "public docstrings": _percent(measures.documented(sources)),
        "annotated functions": _percent(measures.annotated(sources)),
        "comment lines": _percent(measures.commented(sources)),
        "private functions named once in their file": _percent(measures.called_once(sources)),
    }
    for recipe in RECIPES:
        name = f"files that name a {recipe.adds} (`{recipe.example}`)"
        found[name] = str(len(measures.naming(sources, recipe.example)))
    return found


def table(columns: dict[str, dict[str, str]]) -> str:
    """Measures side by side, as Markdown."""
    rows = [["", *columns], ["---", *("---:" for _ in columns)]]
    rows += [[name, *(column[name] for column in columns.values())] for name in next(iter(columns.values()))]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def recipe_table() -> str:
    """What each recipe touches, as Markdown."""
    rows = [
        ["to add a …", f"files of nemo_pi at {BEFORE}", "now", "which", "beside it", "modules of your own"],
        ["---", "---:", "---:", "---", "---", "---:"],
    ]
    for recipe in RECIPES:
        which = ", ".join(f"`{name.removeprefix('nemo_pi/')}`" for name in recipe.library)
        beside = ", ".join(f"`{name}`" for name in recipe.beside) or "–"
        own = str(recipe.modules or "–")
        rows.append([recipe.adds, recipe.before, str(len(recipe.library)), which, beside, own])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """The files of a commit, in a folder for the while."""
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True, check=True)
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
            files.extractall(folder, filter="data")
        yield Path(folder)


def render(since: str | None) -> str:
    """Both tables; the first beside another commit's where one is named."""
    columns = {}
    if since is not None:
        with checkout(since) as folder:
            columns[since] = figures(folder)
    columns["now"] = figures(ROOT)
    return f"{table(columns)}\n\n{recipe_table()}"


def complaints() -> list[str]:
    """What must never be so, and what the page must have."""
    graph = import_graph(ROOT)
    found = [f"import cycle: {' → '.join(group)}" for group in cycles(graph)]
    found += [f"upward import: {own} imports {other}" for own, other in upward(graph, floors_of(ROOT))]
    _, begin, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    written, end, _ = rest.partition(END)
    missing = [name for name in figures(ROOT) if f"| {name} |" not in written]
    if not begin or not end or missing or recipe_table() not in written:
        found.append(f"docs/design.md lacks {', '.join(missing) or 'the table of recipes'}: run `make house`")
    return found


def write(text: str) -> None:
    """Puts the tables between the page's marks."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def details() -> str:
    """The long ones by name."""
    sources = measures.read(ROOT)
    long = [*measures.long_files(sources), *measures.long_functions(sources)]
    return "\n".join(f"{lines:4d} {name}" for name, lines in long)


def _spread(numbers: Sequence[int]) -> str:
    shown = (measures.percentile(numbers, 0.5), measures.percentile(numbers, 0.95), max(numbers))
    return " / ".join(map(str, shown))


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--since", help="a commit to measure as well")
    parser.add_argument("--write", action="store_true", help="into docs/design.md")
    parser.add_argument("--check", action="store_true", help="print what must not be, and exit with 1 for it")
    args = parser.parse_args(arguments)
    if args.check:
        found = complaints()
        print("\n".join(found) or "no import cycle, no upward import; docs/design.md has the table")
        return 1 if found else 0
    text = render(args.since or (BEFORE if args.write else None))
    if args.write:
        write(text)
    print(f"{text}\n\n{details()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
