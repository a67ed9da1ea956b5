"""All stages of `make replicate`, and its page."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from evidence.replicate import interpolation, others
from evidence.replicate.curves import draw
from evidence.replicate.lab import Lab
from evidence.replicate.page import as_json, as_page
from evidence.replicate.row import Verdict, judge
from evidence.replicate.short_runs import ROOT, measure_costs, measure_families
from evidence.stages import Stage

ROWS = (*interpolation.ROWS, *others.ROWS)
"""Every claim, in the order of the page."""
_SECONDS = {"--compare": (360, 4.7), "--pose": (240, 3.3), "": (100, 1.2)}
"""Of measuring, and of a step of all its methods, on two Zen 4 cores."""


def stages(lab: Lab) -> list[Stage]:
    """The demo's runs, which `make compare` shares where it is given the same folder, and short ones."""
    few, many = lab.sweep
    swept = [
        _demo("", steps, lab.folder / f"steps-{steps}", f"PI, {steps} steps", lab.swept(steps))
        for steps in (few, many)
    ]
    folder = lab.folder
    return [
        _demo("--compare", lab.steps, folder, "PI, direct fine-tuning, NTK-aware, YaRN", lab.compared),
        _demo("--pose", lab.steps, folder, "PI by PoSE, full length, random", lab.sampled),
        Stage("costs of a step", 100, lab.costs, partial(measure_costs, folder, lab.costs)),
        Stage("other families", 90, lab.families, partial(measure_families, folder, lab.families)),
        *swept,
    ]


def verdicts(lab: Lab) -> list[Verdict]:
    """Of every row, as far as it has been measured."""
    return [judge(row, lab) for row in ROWS]


def write(lab: Lab, page: Path) -> None:
    """Write the page with its figure, and results.json into the lab's folder."""
    found = verdicts(lab)
    (page.parent / "images").mkdir(parents=True, exist_ok=True)
    figure = draw(page.parent / "images" / "replicate_curves.png")
    page.write_text(as_page(found, lab.steps, f"images/{figure.name}"), encoding="utf-8")
    lab.folder.mkdir(parents=True, exist_ok=True)
    (lab.folder / "results.json").write_text(as_json(found, lab.steps), encoding="utf-8")


def _demo(flag: str, steps: int, folder: Path, name: str, made: Path) -> Stage:
    measuring, step = _SECONDS[flag]

    def run() -> None:
        script = ROOT / "examples" / "demo.py"
        words = [*([flag] if flag else []), "--steps", str(steps), "--results", str(folder)]
        subprocess.run([sys.executable, str(script), *words], cwd=ROOT, env=dict(os.environ), check=True)

    return Stage(f"demo: {name}", measuring + step * steps, made, run)
