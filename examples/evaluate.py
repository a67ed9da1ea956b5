"""Perplexity by context length, passkey retrieval and other tasks on models, side by side.

    python examples/evaluate.py base-model extended-model documents=heldout.jsonl results=results/evaluation
    python examples/evaluate.py extended-model 'tasks=[passkey]' tasks.passkey.trials=5
    torchrun --nproc-per-node 8 examples/evaluate.py results/run/checkpoints/step_00001000 \\
        documents=heldout.jsonl tensor_model_parallel_size=4

Keys are those of conf/evaluate.yaml; --config-path and --config-name take a YAML of your own. What every task
costs is said before a model is loaded.

On one rank transformers computes a Hugging Face folder, so this checks what a user of the exported folder
gets. Megatron computes a distributed checkpoint, and a folder with backend=megatron or on several ranks;
ranks beyond a model's own are replicas that share the windows. The numbers agree to rounding.
"""

from __future__ import annotations

import sys

from nemo_pi.cli.quiet import hide_harmless_messages

hide_harmless_messages()  # before the imports that utter them

from nemo_pi.cli.ends import reports_errors  # noqa: E402


@reports_errors
def main() -> None:
    """Measures every model and reports."""
    from nemo_pi.cli.evaluate import run

    sys.exit(run(__doc__))


if __name__ == "__main__":
    main()
