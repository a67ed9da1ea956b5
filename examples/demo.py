"""The bundled model from 512 to 4,096 tokens by Position Interpolation, and the proof that it works.

    python examples/demo.py              (make demo)
    python examples/demo.py --compare    (make compare): beside direct fine-tuning, NTK-aware and YaRN
    python examples/demo.py --pose       what PI is trained on: full length, PoSE, randomised positions

Start it again after an interruption: trained models are kept, a cut-off run goes on from its checkpoint.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from nemo_pi.cli.parser import Parser

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for the demo's own package, which is not installed
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--compare", action="store_true", help="add the other methods (at most 30 minutes)")
    other.add_argument(
        "--pose",
        action="store_true",
        help="PI at full length, by PoSE and at randomised positions (15 minutes)",
    )
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps of each method (default 200)")
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "demo", help="folder to write")
    return parser.parse_args()


def main() -> None:
    """Prepares data, extends, trains, measures, reports."""
    args = parse()
    started = time.perf_counter()
    from demo.extend import BASE_MODEL, extend_untrained, prepare_samples, train, trained_folder
    from demo.measure import describe_training, measure, training_losses
    from demo.methods import COMPARED, POSITION_INTERPOLATION, SAMPLERS
    from nemo_pi.evaluation.plots import plot_losses
    from nemo_pi.evaluation.report import RESULTS, render_text, write_report
    from nemo_pi.evaluation.results import write_results
    from nemo_pi.evaluation.training_section import training_section

    folder = args.results.resolve()
    methods = SAMPLERS if args.pose else (POSITION_INTERPOLATION, *(COMPARED if args.compare else ()))
    data = prepare_samples(methods, folder, args.steps)
    heldout = data[methods[0].stages[0]].heldout
    thorough = args.compare or args.pose
    rows = [measure("base model", BASE_MODEL, heldout, thorough=thorough)]
    for method in methods:
        if method.before_training:
            untrained = extend_untrained(method, data, folder)
            rows.append(measure(method.untrained_title, untrained, heldout, thorough=thorough))
        trained = train(method, data, folder, args.steps)
        name, settings = f"{method.title}, {args.steps} steps", describe_training(method, args.steps)
        rows.append(measure(name, trained, heldout, thorough=thorough, settings=settings))
    report = folder / next((name for name in ("compare", "pose") if getattr(args, name)), "report")
    write_results(rows, report / RESULTS)  # safe, whatever fails below
    losses = {method.title: training_losses(method, folder) for method in methods}
    took = f"{(time.perf_counter() - started) / 60:.1f} minutes"
    picture = plot_losses(losses, report / "loss.png")
    training = training_section(losses, picture, f"The whole demo took {took}.")
    files = write_report(rows, report, title="From 512 to 4,096 tokens", more=(training,))
    print(f"\n{render_text(rows)}\n\nTook {took}.")
    print(f"Extended model (Hugging Face): {trained_folder(methods[0], folder)}")
    print(f"Results: {report}\nReport: {files.page}")


if __name__ == "__main__":
    main()
