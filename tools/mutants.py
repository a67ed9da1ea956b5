"""Mutants: faults planted one at a time at random places, and whether the tests notice (`make mutants`).

Places and faults are cosmic-ray's operators; which place and which fault are drawn from a seed. Each fault is
written into a copy of the repository, where the tests of its file run first, then those that import it, then
its neighbours, until one fails. Survivors are read by a person: either a test is missing, or nobody could
tell the two apart, which is said in EQUIVALENT with the reason.

    python -m tools.mutants [--count 100] [--seed 1] [--only TEXT]
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
REPORT = ROOT / "tests" / "reliability" / "mutants.md"
EQUIVALENT = ROOT / "tests" / "reliability" / "mutants_equivalent.txt"
"""Lines `path: line -> mutated line: reason`."""
SUBJECTS = (
    *("nemo_pi/rope", "nemo_pi/data", "nemo_pi/checkpoint", "nemo_pi/config", "nemo_pi/evaluation"),
    *("nemo_pi/model/loss.py", "nemo_pi/model/chunked_loss.py", "nemo_pi/model/vocab_parallel.py"),
)
SECONDS = 900
"""A fault that makes a stage's tests run longer has been noticed."""
# `|` joins types, which are never evaluated; `is` is `==` for small numbers; the last need arguments.
_LEFT_OUT = re.compile(r"Bit(Or|Xor|And)|[RL]Shift|Invert|Eq_Is|Variable|ExceptionReplacer")
# What people look at; a test cannot say which line of a plot is too thin.
_DRAWN = re.compile(r"plots?\.py|heat_maps|style\.py")
_BROKEN: set[str] = set()
"""Tests that fail without a fault."""
# Imported once, before a process is forked for each fault; nothing of nemo_pi.
_PRELOAD = (
    *("torch", "transformers.models.llama.modeling_llama", "hypothesis", "pytest", "matplotlib.pyplot"),
    *("megatron.core.models.gpt.gpt_layer_specs", "megatron.core.dist_checkpointing"),
)


@dataclass(frozen=True)
class Mutant:
    """A fault in one file."""

    path: str
    """Of the file, from the root."""
    number: int
    """Line, from 1."""
    before: str
    """That line."""
    after: str
    """What it becomes; empty where it goes."""
    source: str
    """The whole file with the fault."""

    @property
    def name(self) -> str:
        """As reports and EQUIVALENT write it, without the number, which moves."""
        return f"{self.path}: {self.before} -> {self.after}"


Place = tuple[Path, tuple[str, ...], int]
"""A file, the operators that apply to one place of it, and which of their occurrences there that place is."""


def places_of(path: Path) -> list[Place]:
    """Every place of a file where a fault can be planted."""
    from cosmic_ray.ast import get_ast

    tree = get_ast(path.read_text(encoding="utf-8"))
    alike = _operators()
    counts = {names: sum(1 for _ in _positions(tree, _operator(names[0]))) for names in alike}
    return [(path, names, occurrence) for names in alike for occurrence in range(counts[names])]


def _operators() -> list[tuple[str, ...]]:
    """Names of cosmic-ray's operators, those together that apply to the same places."""
    from cosmic_ray.operators.provider import OperatorProvider

    groups: dict[str, list[str]] = {}
    for name in OperatorProvider():
        if not _LEFT_OUT.search(name):
            alike = name.startswith(("ReplaceBinary", "ReplaceComparison"))  # ..._FROM_TO
            groups.setdefault(name.rpartition("_")[0] if alike else name, []).append(name)
    return [tuple(names) for names in groups.values()]


def _operator(name: str) -> Any:
    from cosmic_ray.operators.provider import OperatorProvider

    return OperatorProvider()[name]()


def planted(place: Place, name: str, root: Path) -> Mutant | None:
    """The fault that an operator makes of a place; None where Python would not take it."""
    from cosmic_ray.ast import get_ast

    path, _, occurrence = place
    source = path.read_text(encoding="utf-8")
    mutated = _planted(get_ast(source), _operator(name), occurrence)
    return _mutant(path, root, source, mutated) if mutated != source and _compiles(mutated) else None


def _positions(tree: Any, operator: Any) -> Iterator[tuple[Any, int]]:
    from cosmic_ray.ast import ast_nodes

    for node in ast_nodes(tree):
        for index, _ in enumerate(operator.mutation_positions(node)):
            yield node, index


def _planted(tree: Any, operator: Any, occurrence: int) -> str:
    """The source with one occurrence mutated."""
    found = next((p for i, p in enumerate(_positions(tree, operator)) if i == occurrence), None)
    if found is None:  # some of a family leave places out, such as comparisons with None
        return str(tree.get_code())
    node, index = found
    parent, mutated = node.parent, operator.mutate(node, index)
    if parent is not None and mutated is not node:
        children = [mutated if child is node else child for child in parent.children]
        parent.children = [child for child in children if child is not None]
    return str(tree.get_code())


def _compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec")
    except (SyntaxError, ValueError):
        return False
    return True


def _mutant(path: Path, root: Path, source: str, mutated: str) -> Mutant:
    old, new = source.splitlines(), mutated.splitlines()
    number = next((i for i, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), len(new))
    after = "" if len(new) < len(old) else new[number].strip()
    return Mutant(path.relative_to(root).as_posix(), number + 1, old[number].strip(), after, mutated)


def drawn(root: Path, count: int, seed: int, only: str = "") -> list[Mutant]:
    """`count` faults at different places: every place is as likely, then every fault there."""
    draw = random.Random(seed)
    files = [file for subject in SUBJECTS for file in _files(root / subject) if only in str(file)]
    places = [place for file in files for place in places_of(file)]
    draw.shuffle(places)
    found: list[Mutant] = []
    for place in places:
        if len(found) < count and (mutant := planted(place, draw.choice(place[1]), root)) is not None:
            found.append(mutant)
    return found


def _files(subject: Path) -> list[Path]:
    if subject.is_file():
        return [subject]
    return sorted(file for file in subject.rglob("*.py") if not _DRAWN.search(file.name))


def stages(path: str, root: Path) -> list[list[str]]:
    """Test files to run after one another: its own, its importers, its neighbours, its package's own.

    A package that is one subject, like RULER's, is tested as a whole: `evaluation/ruler/` by `test_ruler.py`.
    """
    module = path.removesuffix(".py").replace("/", ".")
    folder = Path("tests/unit") / Path(path).relative_to("nemo_pi").parent
    tests = sorted((root / "tests" / "unit").rglob("test_*.py"))
    named = re.compile(rf"(from|import) {re.escape(module)}\b|{re.escape(module)}\.")
    own = [root / folder / f"test_{Path(path).name}"]
    importing = [test for test in tests if named.search(test.read_text(encoding="utf-8"))]
    near = sorted((root / folder).glob("test_*.py"))
    whole = [test for test in tests if test.name == f"test_{Path(path).parent.name}.py"]
    seen: set[Path] = set()
    found = []
    for group in (own, importing, near, whole):
        stage = [test for test in group if test.is_file() and test not in seen]
        seen.update(stage)
        if stage:
            found.append([test.relative_to(root).as_posix() for test in stage])
    return found


def verdict(mutant: Mutant, copy: Path, log: Path) -> str | None:
    """What noticed the fault; None where nothing did."""
    target = copy / mutant.path
    original = target.read_text(encoding="utf-8")
    target.write_text(mutant.source, encoding="utf-8")
    try:
        runs = (_failing(copy, tests, log) for tests in stages(mutant.path, copy))
        noticed = next(filter(None, runs), None)
    finally:
        target.write_text(original, encoding="utf-8")
    if noticed and "::" in noticed and _failing(copy, [noticed], log):
        print(f"    {noticed} fails without any fault, and counts for nothing", flush=True)
        _BROKEN.add(noticed)
        return verdict(mutant, copy, log)
    return noticed


def _failing(copy: Path, tests: Sequence[str], log: Path) -> str | None:
    """The first test that fails, or `timeout`; None where all pass."""
    child = os.fork()
    if not child:
        os.setsid()
        _run_tests(copy, tests, log)
    began = time.monotonic()
    while time.monotonic() - began < SECONDS:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            failed = re.search(
                r"^(?:FAILED|ERROR) (\S+?\[.*?\]|\S+)(?: - |$)", log.read_text(errors="replace"), re.MULTILINE
            )
            return (failed[1] if failed else "an error") if status else None
        time.sleep(0.2)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timeout"


def _run_tests(copy: Path, tests: Sequence[str], log: Path) -> None:
    """In a child process: ends it."""
    import pytest

    status = 1
    try:
        with log.open("w") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
            sys.stdout = sys.stderr = stream
            os.chdir(copy)
            sys.path[:] = [str(copy), *(entry for entry in sys.path if entry not in ("", str(ROOT)))]
            os.environ["PYTHONPATH"] = str(copy)
            left_out = [f"--deselect={test}" for test in sorted(_BROKEN)]
            status = int(pytest.main(["-x", "-q", "-rfE", "-p", "no:cacheprovider", *left_out, *tests]))
    except BaseException:  # the child must not go on as the driver
        traceback.print_exc()
    finally:
        os._exit(status)


def equivalents(file: Path = EQUIVALENT) -> dict[str, str]:
    """Name of a mutant → why nobody can tell it from the original."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    parts = (line.rpartition(" # ") for line in lines if " # " in line)
    return {name.strip(): reason.strip() for name, _, reason in parts}


def report(results: Sequence[tuple[Mutant, str | None]], seed: int) -> str:
    """The report as Markdown."""
    known = equivalents()
    survived = [mutant for mutant, noticed in results if noticed is None]
    same = [mutant for mutant in survived if mutant.name in known]
    killed, counted = len(results) - len(survived), len(results) - len(same)
    lines = [
        "# Mutants",
        "",
        f"`make mutants`, seed {seed}: {len(results)} faults at random places of {', '.join(SUBJECTS)}.",
        f"{killed} were noticed by a unit test, {len(same)} cannot be told from the original: "
        f"{killed} of {counted}, {killed / max(1, counted):.0%}.",
        "",
        "| place | line | becomes | noticed by |",
        "| --- | --- | --- | --- |",
    ]
    for mutant, noticed in sorted(results, key=lambda pair: (pair[0].path, pair[0].number)):
        why = noticed or (f"equivalent: {known[mutant.name]}" if mutant.name in known else "**nobody**")
        cells = (f"{mutant.path}:{mutant.number}", f"`{mutant.before}`", f"`{mutant.after}`", why)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Plants, tests and reports; the status is 1 where a fault that matters went unnoticed."""
    parser = argparse.ArgumentParser(
        description="Plant faults and see whether the tests notice.", allow_abbrev=False
    )
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="paths that hold this text")
    parser.add_argument("--report", type=Path, default=REPORT)
    args = parser.parse_args(arguments)
    for name in _PRELOAD:
        __import__(name)
    results: list[tuple[Mutant, str | None]] = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as temporary:
        copy, log = Path(temporary) / "repository", Path(temporary) / "log"
        _copy_repository(copy)
        for mutant in drawn(copy, args.count, args.seed, args.only):
            results.append((mutant, verdict(mutant, copy, log)))
            print(f"{len(results)}: {mutant.path}:{mutant.number}: {mutant.before} -> {mutant.after}")
            print(f"    {results[-1][1] or 'NOBODY'}", flush=True)
            args.report.write_text(report(results, args.seed), encoding="utf-8")
    known = equivalents()
    return int(any(noticed is None and mutant.name not in known for mutant, noticed in results))


def _copy_repository(copy: Path) -> None:
    """Tracked files and compiled kernels."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    kernels = (path.relative_to(ROOT).as_posix() for path in ROOT.glob("nemo_pi/kernels/*.so"))
    for name in (*listed.splitlines(), *kernels):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)


if __name__ == "__main__":
    sys.exit(main())
