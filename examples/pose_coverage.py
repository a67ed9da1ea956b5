"""Which relative distances a PoSE run will train, and how often: a look before launching.

    python examples/pose_coverage.py --original-window 2048 --target-window 131072 --sampler paper random

Draws the samples of a run as training draws them (first epoch, first corpus, whole rows), prints shares and
quantiles and writes a plot. No model, no data.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from nemo_pi.cli.ends import reports_errors
from nemo_pi.cli.parser import Parser
from nemo_pi.config.pose import check_pose
from nemo_pi.config.sections import PoseConfig
from nemo_pi.data.coverage import Coverage, coverage
from nemo_pi.errors import ConfigError
from nemo_pi.evaluation.coverage_plot import plot_coverage


def parse() -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--original-window", type=int, required=True, help="tokens of the pretrained window")
    parser.add_argument("--target-window", type=int, required=True, help="max_position_embeddings")
    parser.add_argument("--training-length", type=int, help="encoder_seq_length (default: original window)")
    parser.add_argument("--sampler", nargs="+", default=["paper"], help="one or more (default: paper)")
    parser.add_argument("--chunks", type=int, default=2, help="chunks of a sample (default 2)")
    parser.add_argument("--steps", type=int, default=1000, help="trainer.max_steps (default 1000)")
    parser.add_argument("--batch", type=int, default=64, help="model.global_batch_size (default 64)")
    parser.add_argument("--seed", type=int, default=1234, help="model.seed (default 1234)")
    parser.add_argument("--plot", type=Path, default=Path("results/pose_coverage.png"), help="file to write")
    return parser.parse_args()


def count(sampler: str, args: argparse.Namespace) -> Coverage:
    """What one sampler trains in the whole run."""
    length = args.training_length or args.original_window
    two_only = sampler in ("released", "random")
    chosen = PoseConfig(sampler=sampler, chunks=2 if two_only else args.chunks)
    spec = check_pose(chosen, training_length=length, target_window=args.target_window)
    return coverage(
        spec,
        training_length=length,
        original_window=args.original_window,
        num_samples=args.steps * args.batch,
        key=(args.seed, 0, 0),
        progress=progress(sampler, args.steps * args.batch),
    )


def progress(what: str, total: int) -> Callable[[int], None]:
    """Percentages on standard error, where someone looks at it."""

    def show(done: int) -> None:
        if sys.stderr.isatty() and (done % 500 == 0 or done == total):
            end = "\n" if done == total else ""
            print(f"\r{what}: {100 * done / total:.0f}%", end=end, file=sys.stderr, flush=True)

    return show


def describe(name: str, found: Coverage) -> str:
    """A line of the table."""
    rarest, rare, median, frequent = found.quantiles()
    return (
        f"{name:<12}{found.seen:>8.2%}{found.seen_beyond:>10.2%}{found.share_beyond:>14.2%}"
        f"{rarest:>12,}{rare:>12,}{median:>12,}{frequent:>14,}"
    )


@reports_errors
def main() -> None:
    """Counts, prints and draws."""
    args = parse()
    for name in ("original_window", "steps", "batch"):
        if getattr(args, name) < 1:
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(flag, required="1 or more", given=getattr(args, name), fix=f"{flag} 64")
    found = {sampler: count(sampler, args) for sampler in args.sampler}
    length = args.training_length or args.original_window
    what = (
        f"{args.steps:,} steps of {args.batch:,} samples of {length:,} tokens, "
        f"target {args.target_window:,}, seed {args.seed}"
    )
    print(what)
    print("distances    seen    beyond*   pairs beyond*     rarest          5%      median           95%")
    for name, result in found.items():
        print(describe(name, result))
    print(f"* from {args.original_window:,} on. The last four: pairs of tokens at a distance.")
    pairs = {name: result.pairs for name, result in found.items()}
    path = plot_coverage(pairs, args.plot, original_window=args.original_window, subtitle=what)
    print(f"Plot: {path}")


if __name__ == "__main__":
    main()
