"""LongCE and mixed windows on the bundled model, beside plain Position Interpolation.

    python examples/demo.py             first: what is here goes on with its data and its first stage
    python -m evidence.left_out         about twenty minutes on an idle core
    python -m evidence.left_out --steps 50 --rows 2         with all samples of the demo's last stage

Trains the demo's last stage anew for each variant and each order of samples, and its first one, from the
base model, with and without mixed windows; measures, and prints the tables of docs/recipes.md. Start it again
after an interruption: what is measured stays measured.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from demo.extend import BASE_MODEL, ROOT
from demo.methods import POSITION_INTERPOLATION
from evidence.left_out.measuring import Losses, figures, key_tokens, losses
from evidence.left_out.training import MIXED, PI, VARIANTS, before_last_stage, stage_of_demo, train
from nemo_pi.cli.ends import reports_errors
from nemo_pi.cli.parser import Parser

COLUMNS = (
    *("", "samples", "512", "1,024", "2,048", "4,096", "512, unscaled"),
    *("keys at 512", "2,048", "4,096", "a step"),
)
FIRST_STEPS = 48
"""Of the first stage, where it is trained anew."""


def parse() -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "demo", help="the demo's folder")
    parser.add_argument("--steps", type=int, default=24, help="optimizer steps (default 24; the demo: 50)")
    parser.add_argument("--rows", type=int, default=1, help="samples of a step (default 1; the demo: 2)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1234, 2], help="orders of samples")
    return parser.parse_args()


@dataclass(frozen=True)
class Trial:
    """One training."""

    variant: str
    """See training.py."""
    seed: int
    """Of the samples' order."""
    steps: int
    """Optimizer steps."""
    rows: int | None
    """Samples of a step of the last stage; None: it is the first one, from the base model."""

    def folder(self, results: Path) -> Path:
        """Where it is kept."""
        name = self.variant.replace(", ", "-").replace(" ", "-").lower()
        stage = "first" if self.rows is None else f"last-{self.rows}"
        return results / "left_out" / f"{name}-{stage}-{self.steps}-{self.seed}"

    def make(self, results: Path) -> Path:
        """Train and measure, where that is not done.

        Returns:
            Its folder.
        """
        folder, heldout = self.folder(results), results / "data_4096" / "heldout.jsonl"
        file, exported = folder / "measured.json", folder / "huggingface"
        if not file.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was cut off
            number = 0 if self.rows is None else len(POSITION_INTERPOLATION.stages) - 1
            run = stage_of_demo(results, number, steps=self.steps, seed=self.seed, rows=self.rows)
            start = BASE_MODEL if self.rows is None else before_last_stage(results)
            cost = train(run, self.variant, start, exported, results)
            found = losses(exported, heldout)
            np.savez(folder / "losses.npz", long=found.long_N, short=found.short_N)
            content = {**asdict(cost), **asdict(figures(exported, heldout))}
            file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        return folder


@reports_errors
def main() -> None:
    """Trains and measures what is not there yet, and prints the tables."""
    args = parse()
    results = args.results.expanduser().resolve()
    last = [Trial(variant, seed, args.steps, args.rows) for variant in VARIANTS for seed in args.seeds]
    first = [Trial(variant, args.seeds[0], FIRST_STEPS, None) for variant in (PI, MIXED)]
    for trials in (last, first):
        _print([(trial, trial.make(results)) for trial in trials])


def _print(made: Sequence[tuple[Trial, Path]]) -> None:
    needs_N = key_tokens([_losses(folder) for _, folder in made])
    print(f"\nOf {needs_N.size:,} tokens {needs_N.sum():,} need long context (LongPPL).\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for trial, folder in made:
        print(f"| {' | '.join([trial.variant, str(trial.seed), *_cells(folder)])} |")


def _losses(folder: Path) -> Losses:
    with np.load(folder / "losses.npz") as arrays:
        return Losses(arrays["long"], arrays["short"])


def _cells(folder: Path) -> list[str]:
    found = json.loads((folder / "measured.json").read_text(encoding="utf-8"))
    rates = [f"{rate:.0%}" for rate in found["passkeys"].values()]
    perplexities = [f"{value:.2f}" for value in found["perplexity"].values()]
    return [*perplexities, f"{found['unscaled'][0]:.2f}", *rates, f"{found['cpu_seconds']:.1f} s"]


if __name__ == "__main__":
    main()
