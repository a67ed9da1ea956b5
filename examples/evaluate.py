"""Perplexity by context length and passkey retrieval of Hugging Face folders, side by side.

    python examples/evaluate.py base-model/ extended-model/ --documents heldout.jsonl --original-window 2048 \
        --target-window 32768 --results results/evaluation

transformers computes the scores, so this checks what a user of the exported folder gets.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from nemo_pi.data.tokenizer import Tokenizer, build_tokenizer
from nemo_pi.errors import DataError
from nemo_pi.evaluation.evaluate import EvaluationSettings, evaluate
from nemo_pi.evaluation.huggingface import HuggingFaceScorer
from nemo_pi.evaluation.report import render_text, write_report
from nemo_pi.evaluation.row import EvaluationRow
from nemo_pi.training.cli import reports_errors


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, help="Hugging Face folders")
    parser.add_argument(
        "--documents", type=Path, required=True, help="held-out text, JSON lines with a `text` key"
    )
    parser.add_argument(
        "--original-window", type=int, required=True, help="tokens the base model was trained on"
    )
    parser.add_argument("--target-window", type=int, required=True, help="tokens to evaluate up to")
    parser.add_argument(
        "--stride", type=int, default=256, help="labels per window after the first (default 256)"
    )
    parser.add_argument(
        "--max-tokens", type=int, default=None, help="labels scored per length (default: all)"
    )
    parser.add_argument(
        "--passkey-trials", type=int, default=10, help="documents per cell; 0 leaves pass keys out"
    )
    parser.add_argument("--passkey-lengths", type=int, default=32, help="evenly spaced lengths (default 32)")
    parser.add_argument("--results", type=Path, default=Path("results/evaluation"), help="folder to write")
    return parser.parse_args()


def read_documents(path: Path, tokenizer: Tokenizer, longer_than: int) -> list[list[int]]:
    """Token ids of the documents that exceed the longest window.

    Raises:
        DataError: no such document, or a line that is not what it should be.
    """
    documents = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                documents.append(tokenizer.encode(json.loads(line)["text"]))
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise DataError(
                    f"{path}:{number}",
                    required='a JSON object with a "text" string',
                    given=f"{line[:60]!r} ({error})",
                    mend="write one JSON object a line",
                ) from error
    long_enough = [document for document in documents if len(document) > longer_than]
    if not long_enough:
        raise DataError(
            str(path),
            required=f"a document of more than {longer_than} tokens",
            given=f"{len(documents)} documents, the longest of {max(map(len, documents), default=0)} tokens",
            mend="give longer documents, or a smaller --target-window",
        )
    return long_enough


def measure(model: Path, args: argparse.Namespace) -> EvaluationRow:
    """One model's row."""
    tokenizer = build_tokenizer("huggingface", str(model))
    settings = EvaluationSettings(
        name=model.name,
        original_window=args.original_window,
        target_window=args.target_window,
        stride=args.stride,
        max_tokens=args.max_tokens,
        measure_passkey=args.passkey_trials > 0,
        num_passkey_lengths=args.passkey_lengths,
        passkey_trials=max(1, args.passkey_trials),
    )
    documents = read_documents(args.documents, tokenizer, args.target_window)

    def progress(what: str, done: int, total: int) -> None:
        print(f"\r{model.name}: {what} {100 * done / total:.0f}%", end="", file=sys.stderr, flush=True)

    row = evaluate(HuggingFaceScorer(model), documents, tokenizer, settings, progress)
    print(file=sys.stderr)
    return row


@reports_errors
def main() -> None:
    """Measures every model and reports."""
    args = parse()
    rows = [measure(model, args) for model in args.models]
    files = write_report(rows, args.results)
    print(render_text(rows))
    print(f"Results: {files.folder}")


if __name__ == "__main__":
    main()
