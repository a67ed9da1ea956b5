"""Perplexity by context length and passkey retrieval of models, side by side.

    python examples/evaluate.py base-model/ extended-model/ --documents heldout.jsonl \\
        --original-window 2048 --target-window 32768 --results results/evaluation
    torchrun --nproc-per-node 8 examples/evaluate.py results/run/checkpoints/step_00001000 \\
        --documents heldout.jsonl --original-window 2048 --target-window 32768 --tensor-model-parallel-size 4

On one rank transformers computes the scores of a Hugging Face folder, so this checks what a user of the
exported folder gets. Megatron computes those of a distributed checkpoint, and of a folder with --backend
megatron or on several ranks; ranks beyond a model's own are replicas that share the windows. The numbers
agree to rounding.
"""

from __future__ import annotations

from nemo_pi.cli.quiet import hide_harmless_messages

hide_harmless_messages()  # before the imports that utter them

from nemo_pi.cli.ends import reports_errors  # noqa: E402


@reports_errors
def main() -> None:
    """Measures every model and reports."""
    from nemo_pi.cli.evaluate import run

    run(__doc__)


if __name__ == "__main__":
    main()
