"""Which method suits your checkpoint, before you spend GPU hours on one.

    python examples/advise.py CHECKPOINT --documents heldout.jsonl --target-window 32768 --minutes 20

Every registered method is tried with the arguments that are known to make sense, untrained, on your own
text: perplexity within the old window and by length, pass keys, LongPPL. What comes out is a ranking, with
the YAML lines to paste and what training each method is known to need. What it costs is said first; it keeps
to the minutes that you allow, and a second start goes on where the first one ended.
"""

from __future__ import annotations

import sys

from nemo_pi.cli.quiet import hide_harmless_messages

hide_harmless_messages()  # before the imports that utter them

from nemo_pi.cli.ends import reports_errors  # noqa: E402


@reports_errors
def main() -> None:
    """Measures, ranks and reports."""
    from nemo_pi.cli.advise import run

    sys.exit(run(__doc__))


if __name__ == "__main__":
    main()
