"""Text from a model that was extended, up to its whole target window.

    python examples/generate.py --model extended-model/ --prompt "In the beginning" --max-new-tokens 64
    python examples/generate.py --model results/run/checkpoints/step_00001000 --prompt-file report.txt \\
        --max-new-tokens 200 --temperature 0.8 --top-p 0.95
    torchrun --nproc-per-node 2 examples/generate.py --model llama/ --tensor-model-parallel-size 2 \\
        --prompt "Call me" --max-new-tokens 64

Greedy without --temperature. Prompt and new tokens together must fit the model's window.
"""

from __future__ import annotations

from nemo_pi.cli.quiet import hide_harmless_messages

hide_harmless_messages()  # before the imports that utter them

from nemo_pi import collector  # noqa: E402
from nemo_pi.cli.ends import reports_errors  # noqa: E402


@reports_errors
def main() -> None:
    """Writes the continuation on standard output."""
    from nemo_pi.cli.generate import run

    run(__doc__)


if __name__ == "__main__":
    collector.pause()  # until the model is loaded
    main()
