"""The command line of examples/advise.py, and what it names, looked at before a model is loaded."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nemo_pi.advice.proposals import Asked
from nemo_pi.checkpoint.summary import CheckpointSummary, read_summary
from nemo_pi.cli.evaluate_models import choose_backend
from nemo_pi.cli.flags import add_model_flags, end_ids, tokenizer_folder
from nemo_pi.cli.parser import Parser
from nemo_pi.data.heldout import read_documents
from nemo_pi.data.tokenizer import build_tokenizer
from nemo_pi.errors import CheckpointError, ConfigError
from nemo_pi.evaluation.tasks.base import TaskContext


def parse(description: str | None = None, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; `arguments` of the process by default."""
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("checkpoint", type=Path, help="Hugging Face folder")
    add("--documents", type=Path, required=True, help="held-out text, JSON lines with a `text` key")
    add("--target-window", type=int, required=True, metavar="TOKENS", help="tokens that it shall read")
    add("--minutes", type=float, default=20.0, help="that measuring may take (default 20)")
    add("--methods", help="try only these, e.g. yarn,ntk (default: every method that is registered)")
    add("--original-window", type=int, metavar="TOKENS", help="where the checkpoint's own files are wrong")
    add("--allow-rescaling", action="store_true", help="try what may replace the scaling that it has already")
    add("--windows", type=int, default=16, help="read at each length at most (default 16)")
    add("--batch-tokens", type=int, default=8192, help="tokens read at a time (default 8192)")
    add("--results", type=Path, help="folder to write (default results/advice/NAME-WINDOW)")
    add_model_flags(parser)
    return parser.parse_args(arguments)


def check_numbers(args: argparse.Namespace) -> None:
    """Refuses numbers that mean nothing.

    Raises:
        ConfigError: names the flag.
    """
    for flag, value in (("--target-window", args.target_window), ("--batch-tokens", args.batch_tokens)):
        if value < 2:
            raise ConfigError(flag, required="at least 2 tokens", given=value, fix=f"{flag} 32768")
    if args.windows < 1:
        raise ConfigError("--windows", required="at least 1", given=args.windows, fix="--windows 16")
    if not 0 < args.minutes < 1e6:
        raise ConfigError("--minutes", required="a number above 0", given=args.minutes, fix="--minutes 20")


def readable(checkpoint: Path) -> CheckpointSummary:
    """The checkpoint's facts, if transformers can compute it.

    Raises:
        CheckpointError: it cannot, or the checkpoint is none.
    """
    summary = read_summary(checkpoint)
    if choose_backend(checkpoint, "auto", world_size=1) != "transformers":
        copy = Path("results") / f"{checkpoint.resolve().name}-huggingface"
        raise CheckpointError(
            str(checkpoint),
            required="a Hugging Face folder that transformers computes: all candidates share its weights",
            given=f"a {summary.kind} checkpoint of the family {summary.shape.family}",
            fix="python examples/convert_checkpoint.py "
            f"{shlex.quote(str(checkpoint))} {shlex.quote(str(copy))}, and give that folder",
        )
    return summary


def context_of(args: argparse.Namespace, original_window: int) -> TaskContext:
    """Tokenizer, documents and windows.

    Raises:
        ConfigError, DataError: no tokenizer, or no document that is long enough.
    """
    tokenizer = build_tokenizer("huggingface", str(tokenizer_folder(args.tokenizer, args.checkpoint)))
    documents = read_documents(
        args.documents.expanduser(), tokenizer, args.target_window, window="--target-window"
    )
    return TaskContext(
        tokenizer,
        documents,
        original_window,
        args.target_window,
        bool(tokenizer.start_ids),
        args.batch_tokens,
        end_ids(args.checkpoint, tokenizer),
    )


def about(args: argparse.Namespace, asked: Asked) -> dict[str, Any]:
    """What results are of; those of anything else are not taken up again."""
    checkpoint, documents = args.checkpoint.resolve(), args.documents.expanduser().resolve()
    files = sorted([checkpoint / "config.json", *checkpoint.glob("*.safetensors"), documents])
    return {
        "checkpoint": str(checkpoint),
        "documents": str(documents),
        "files": {str(file): [file.stat().st_size, file.stat().st_mtime_ns] for file in files},
        "target_window": asked.target_window,
        "original_window": asked.original_window,
        "allow_rescaling": asked.allow_rescaling,
        "dtype": args.dtype,
        "tokenizer": args.tokenizer and str(args.tokenizer),
    }
