"""LongRoPE's factors for a model of yours: an evolutionary search by perplexity at the target window.

    python examples/search_longrope.py llama/ --documents books.jsonl --target-window 131072 --minutes 120
    torchrun --nproc-per-node 8 examples/search_longrope.py llama/ --documents books.jsonl \\
        --target-window 131072 --tensor-model-parallel-size 8 --dtype bfloat16
    python examples/search_longrope.py extended-llama/ --short --documents books.jsonl --minutes 30

No weight changes. It starts from the factors of Position Interpolation, NTK and YaRN, and gives the YAML of
the best list found. Started again with the same --results it goes on where it was stopped.
"""

from __future__ import annotations

from nemo_pi.cli.quiet import hide_harmless_messages

hide_harmless_messages()  # before the imports that utter them

from nemo_pi.cli.ends import reports_errors  # noqa: E402


@reports_errors
def main() -> None:
    """Searches and prints the YAML."""
    from nemo_pi.cli.search import run

    run(__doc__)


if __name__ == "__main__":
    main()
