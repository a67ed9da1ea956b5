"""The papers' headline results in small: a row a claim, with pass, fail or "differs in small, because".

    python examples/replicate.py               (make replicate): about an hour on two idle cores
    python examples/replicate.py --steps 800   each method four times as long

Start it again after an interruption: what is done stays done. Rows without a measurement say so.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from nemo_pi.cli.ends import reports_errors
from nemo_pi.cli.parser import Parser

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for the packages beside the library, which are not installed
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps of each method (default 200)")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "results" / "replicate", help="folder to write"
    )
    parser.add_argument("--page", type=Path, help="Markdown to write (default: replicate.md in that folder)")
    parser.add_argument(
        "--measured", action="store_true", help="write the page of what is there; run nothing"
    )
    return parser.parse_args()


@reports_errors
def main() -> None:
    """Runs all stages and judges every row."""
    args = parse()
    from evidence.replicate.job import stages, verdicts, write
    from evidence.replicate.lab import Lab
    from evidence.stages import keep_settings, run_stages

    folder = args.results.expanduser().resolve()
    lab = Lab(folder, args.steps)
    keep_settings(folder, {"steps": args.steps})
    if not args.measured:
        run_stages(stages(lab))
    page = (args.page or folder / "replicate.md").expanduser().resolve()
    page.parent.mkdir(parents=True, exist_ok=True)
    write(lab, page)
    for verdict in verdicts(lab):
        print(f"{verdict.row.key:<12} {verdict.text}")
    print(f"Page: {page}")


if __name__ == "__main__":
    main()
