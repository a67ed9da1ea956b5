"""What was checked of each family, with the largest differences: the table in docs/families.md.

python -m tools.families_table                 all families, printed (about 20 minutes)
python -m tools.families_table llama qwen2     some of them
python -m tools.families_table --write         into docs/families.md; lines of families not named stay

Every random configuration that the families' own tests have is verified (nemo_pi.verification): beside
transformers in float64, inside the window and far beyond it, scaled and not; exported, compared bit by bit
and loaded by transformers. Training at each layout is the rows of tests/integration, run by pytest.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_pi.verification.findings import Finding

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "families.md"
BEGIN, END = "<!-- families: written by `make families` -->", "<!-- /families -->"
LAYOUTS = {
    "TP 2": "tensor_model_parallel_size=2",
    "TP 2 + SP": "sequence_parallel=true",
    "PP 2": "pipeline_model_parallel_size=2",
    "CP 2": "context_parallel_size=2",
}
"""Columns of training, and the override that makes a row of tests/integration/rows.py one of them."""
COLUMNS = ("family", "configurations", "import", "logits", "scaled, far beyond", *LAYOUTS, "export", "reload")


@dataclass
class Line:
    """One family's line."""

    configurations: int = 0
    """Random models that were verified, each with and without scaling."""
    faults: list[str] = field(default_factory=list)
    """Checks that failed, with their configuration."""
    logits: float = 0.0
    """Largest difference, positions inside the window and over its edge."""
    scaled: float | None = None
    """Largest difference of scaled models at positions up to 10,000,000; None where its config.json has no
    words for scaling."""
    reload: float = 0.0
    """Largest difference of transformers' logits between a folder and its export."""
    training: dict[str, float | None] = field(default_factory=dict)
    """Largest distance of a trained tensor from one rank's, as a part of what training moved it, by layout;
    None where a row failed."""

    def take(self, case: str, method: str, findings: Sequence[Finding]) -> None:
        """Adds what verify found of one configuration."""
        self.faults += [f"{case}: {found.check}" for found in findings if found.failed]
        logits = {found.check: found.difference or 0.0 for found in findings}
        logits = {check: value for check, value in logits.items() if check.startswith("logits, ")}
        if method != "none":
            self.scaled = max(self.scaled or 0.0, *logits.values())
            return
        self.configurations += 1
        near = [logits[check] for check in ("logits, inside", "logits, edge") if check in logits]
        self.logits = max(self.logits, *near)

    def cells(self, family: str) -> list[str]:
        """Its cells, in the order of COLUMNS."""
        trained = [
            "–" if name not in self.training else "FAILED" if value is None else f"{value:.0e}"
            for name in LAYOUTS
            for value in [self.training.get(name)]
        ]
        ok = "FAILED" if self.faults else "ok"
        numbers = [
            "–" if number is None else f"{number:.0e}" for number in (self.logits, self.scaled, self.reload)
        ]
        return [f"`{family}`", str(self.configurations), ok, *numbers[:2], *trained, ok, numbers[2]]


def verified(families: Sequence[str], folder: Path) -> dict[str, Line]:
    """Every configuration of the families' tests through verify and an export that transformers loads."""
    from nemo_pi.checkpoint.summary import read_summary
    from nemo_pi.verification.verify import Request, verify
    from tests.unit.verification.folders import cases, family_folder

    lines = {family: Line() for family in families}
    for number, (family, name, settings, method) in enumerate(cases()):
        if family not in lines:
            continue
        line, path, case = lines[family], folder / str(number), f"{name}, {method}"
        try:
            peer = family_folder(path, family, settings, method)
            findings = verify(Request(read_summary(path)), say=lambda what: None)
            line.take(case, method, findings)
            if method == "none":
                line.reload = max(line.reload, reloaded(path, folder / f"{number}-again", peer))
        except Exception as error:  # one model that stops must not take the others' figures along
            line.faults.append(f"{case}: {type(error).__name__}: {error}")
        print(f"{family}: {case}", *line.faults, sep="\n  ", file=sys.stderr, flush=True)
        for leftover in folder.iterdir():
            shutil.rmtree(leftover)
    return lines


def reloaded(folder: Path, target: Path, peer: Any) -> float:
    """How far transformers' logits of an export are from those of its source, nothing missing in it.

    Args:
        folder: the source.
        target: of the export, which goes through a distributed checkpoint.
        peer: transformers' model of the source, angles in float64.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from nemo_pi.cli.convert import convert
    from nemo_pi.parallel import groups
    from tests.unit.model.models import ExactRotary, causal_logits, random_tokens

    distributed = target.with_name(f"{target.name}-distributed")
    for source, written in ((folder, distributed), (distributed, target)):
        convert(source, written, tp=1, pp=1, dtype=None, overwrite=False)
        groups.destroy()
    again, loading = AutoModelForCausalLM.from_pretrained(target, output_loading_info=True)
    if any(loading.values()):
        raise ValueError(f"the export does not load whole: {loading}")
    if hasattr(again.base_model, "rotary_emb"):
        again.base_model.rotary_emb = ExactRotary(again.base_model.rotary_emb)
    tokens_BS = random_tokens()
    with torch.no_grad():
        difference = causal_logits(again, tokens_BS) - causal_logits(peer, tokens_BS)
    return float(difference.abs().max())


def rows_of(families: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """(family, layout, test id) of the first row of tests/integration that trains each so."""
    from tests.integration.crossings import CROSSINGS
    from tests.integration.rows import ROWS
    from tests.integration.world import STARTS

    found = set()
    for row in (*ROWS, *CROSSINGS):
        family, _ = STARTS[row.model]
        layout = _layout_of(row.overrides)
        if family in families and layout is not None and (family, layout) not in found and not row.slow:
            found.add((family, layout))
            yield family, layout, row.name


def _layout_of(overrides: Sequence[str]) -> str | None:
    """The one column of LAYOUTS that a row's overrides are; None for combinations."""
    sizes = {name for name, override in LAYOUTS.items() if any(override in given for given in overrides)}
    if sizes == {"TP 2", "TP 2 + SP"}:
        return "TP 2 + SP"
    virtual = any("virtual_pipeline" in given for given in overrides)
    return next(iter(sizes)) if len(sizes) == 1 and not virtual else None


def trained(families: Sequence[str]) -> dict[tuple[str, str], float | None]:
    """{(family, layout): what a row of tests/integration recorded}, by pytest; None where a test failed."""
    rows = list(rows_of(families))
    test = "tests/integration/test_parity.py::test_trains_as_one_rank_does"
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        names = [f"{test}[{name}]" for _, _, name in rows]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-o",
                "junit_family=xunit1",
                f"--junitxml={report}",
                *names,
            ],
            cwd=ROOT,
            env=environment,
            stdout=sys.stderr,
        )
        results = _results(ElementTree.parse(report).getroot())
    return {(family, layout): results.get(name) for family, layout, name in rows}


def _results(root: ElementTree.Element) -> dict[str, float]:
    """{row: what its test recorded}, of tests that passed."""
    found = {}
    for case in root.iter("testcase"):
        value = next((p.get("value") for p in case.iter("property") if p.get("name") == "update"), None)
        passed = case.find("failure") is None and case.find("error") is None
        if passed and value is not None:
            found[str(case.get("name")).partition("[")[2].rstrip("]")] = float(value)
    return found


def table(lines: Mapping[str, Sequence[str]]) -> str:
    """As Markdown, from each family's cells."""
    rows = [list(COLUMNS), ["---", *["---:" for _ in COLUMNS[1:]]], *lines.values()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def lines_on(page: str) -> dict[str, list[str]]:
    """{family: cells} of the page's table."""
    inside = page.partition(BEGIN)[2].partition(END)[0]
    rows = [line.strip("| ").split(" | ") for line in inside.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row for row in rows}


def written(page: str, lines: Mapping[str, Sequence[str]], order: Sequence[str]) -> str:
    """The page with some families' lines anew, those of other families of `order` as they were.

    Raises:
        ValueError: the page has no place for them.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no place for the table: the page needs {BEGIN} and {END}")
    known = {**lines_on(page), **lines}
    kept = {family: known[family] for family in order if family in known}
    return f"{before}{BEGIN}\n{table(kept)}\n{END}{after}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, and writes where asked to."""
    from nemo_pi.families.registry import names

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("families", nargs="*", help="default: all")
    parser.add_argument("--write", action="store_true", help="into docs/families.md")
    args = parser.parse_args(arguments)
    families = args.families or list(names())
    with tempfile.TemporaryDirectory() as folder:
        lines = verified(families, Path(folder))
    for (family, layout), value in trained(families).items():
        lines[family].training[layout] = value
    cells = {family: line.cells(family) for family, line in lines.items()}
    print(table(cells))
    for family, line in lines.items():
        for fault in line.faults:
            print(f"{family}: {fault}", file=sys.stderr)
    if args.write:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(written(page, cells, names()), encoding="utf-8")
    if any(line.faults or None in line.training.values() for line in lines.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
