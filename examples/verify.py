"""Whether a checkpoint's model is computed as it was meant: logits beside transformers, and beside itself.

    python examples/verify.py extended-model
    python examples/verify.py extended-model --against known-good --layouts tp2,pp2,cp2
    python examples/verify.py results/run/checkpoints/step_00001000 --results verified.json

Rows of random tokens are read inside the original window, over its edge, at the target's end, and at
positions up to 10,000,000. Our logits are compared with transformers' on the same folder (or another,
--against) in float64; every kernel with PyTorch's operators; packed documents with each alone; kept keys
with everything at once; an export with what was read. What is allowed follows from float64: how far the
logits move when every product is rounded once. The exit status is 1 where more than that differs.
"""

from __future__ import annotations

import sys

from nemo_pi.cli.quiet import hide_harmless_messages

hide_harmless_messages()  # before the imports that utter them

from nemo_pi.cli.ends import reports_errors  # noqa: E402


@reports_errors
def main() -> None:
    """Checks, prints the table, and ends with a status."""
    from nemo_pi.cli.verify import run

    sys.exit(run(__doc__))


if __name__ == "__main__":
    main()
