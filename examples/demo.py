"""The bundled model from 512 to 4,096 tokens by Position Interpolation, and the proof that it works.

    python examples/demo.py              (make demo)
    python examples/demo.py --compare    (make compare): beside direct fine-tuning, NTK-aware and YaRN
    python examples/demo.py --pose       beside PoSE and randomised positions, in samples of 512 tokens

Start it again after an interruption: trained models are kept, a cut-off run goes on from its checkpoint.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for the demo's own package, which is not installed
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--compare", action="store_true", help="add the other methods (at most 30 minutes)")
    parser.add_argument(
        "--pose", action="store_true", help="add PoSE and randomised positions: 512 tokens a sample"
    )
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps of each run (default 200)")
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "demo", help="folder to write")
    return parser.parse_args()


def main() -> None:
    """Prepares data, extends, trains, measures, reports."""
    args = parse()
    started = time.perf_counter()
    from demo.extend import BASE_MODEL, extend_untrained, train
    from demo.measure import TARGET, WINDOW, measure, training_losses
    from demo.methods import COMPARED, POSITION_INTERPOLATION, SKIPPING
    from demo.prepare import prepare
    from nemo_pi.evaluation.plots import plot_losses
    from nemo_pi.evaluation.report import render_text, write_report

    folder = args.results.resolve()
    methods = [POSITION_INTERPOLATION, *(COMPARED if args.compare else ()), *(SKIPPING if args.pose else ())]
    data = prepare(folder / "data", window=TARGET, passkey_blocks_count=args.steps, short_length=WINDOW)
    windows = {TARGET: data}
    for window in {method.window for method in methods} - {TARGET}:
        count = args.steps * TARGET // window  # as many tokens a step
        windows[window] = prepare(folder / f"data_{window}", window=window, passkey_blocks_count=count)
    thorough = args.compare or args.pose
    rows = [measure("base model", BASE_MODEL, data, thorough=thorough)]
    for method in methods:
        if method.before_training:
            untrained = extend_untrained(method, data, folder)
            rows.append(measure(f"{method.title}, untrained", untrained, data, thorough=thorough))
        trained = train(method, windows[method.window], folder, args.steps)
        rows.append(measure(f"{method.title}, {args.steps} steps", trained, data, thorough=thorough))
    report = folder / "-".join([name for name in ("compare", "pose") if getattr(args, name)] or ["report"])
    write_report(rows, report, title="From 512 to 4,096 tokens")
    losses = {method.title: training_losses(folder / method.key) for method in methods}
    plot_losses(losses, report / "loss.png")
    print(f"\n{render_text(rows)}\n\nTook {(time.perf_counter() - started) / 60:.1f} minutes.")
    print(f"Extended model (Hugging Face): {train(POSITION_INTERPOLATION, data, folder, args.steps)}")
    print(f"Results: {report}")


if __name__ == "__main__":
    main()
