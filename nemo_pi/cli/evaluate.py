"""examples/evaluate.py: which models are measured, by which backend, on how many ranks."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from nemo_pi.checkpoint.manifest import MANIFEST
from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.cli.flags import add_layout_flags, add_model_flags, layout_of, text_of, tokenizer_folder
from nemo_pi.data.tokenizer import Tokenizer, build_tokenizer
from nemo_pi.engine.opening import open_engine
from nemo_pi.engine.scorer import MegatronScorer
from nemo_pi.errors import ConfigError, DataError
from nemo_pi.evaluation.evaluate import EvaluationSettings, evaluate
from nemo_pi.evaluation.huggingface import HuggingFaceScorer
from nemo_pi.evaluation.report import render_text, write_report
from nemo_pi.evaluation.row import EvaluationRow
from nemo_pi.evaluation.scorer import Scorer
from nemo_pi.model.build import BuildOptions
from nemo_pi.model.engine_layers import resolve_transformer_engine
from nemo_pi.parallel import groups


def parse(description: str | None = None, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; `arguments` of the process by default."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("models", nargs="+", type=Path, help="Hugging Face folders and distributed checkpoints")
    add("--documents", type=Path, required=True, help="held-out text, JSON lines with a `text` key")
    add("--original-window", type=int, required=True, help="tokens the base model was trained on")
    add("--target-window", type=int, required=True, help="tokens to evaluate up to")
    add("--stride", type=int, default=256, help="labels per window after the first (default 256)")
    add("--max-tokens", type=int, default=None, help="labels scored per length (default: all)")
    add("--passkey-trials", type=int, default=10, help="documents per cell; 0 leaves pass keys out")
    add("--passkey-lengths", type=int, default=32, help="evenly spaced lengths (default 32)")
    add("--results", type=Path, default=Path("results/evaluation"), help="folder to write")
    add(
        "--backend",
        choices=("auto", "transformers", "megatron"),
        default="auto",
        help="auto: transformers for Hugging Face folders on one rank, else megatron",
    )
    add_model_flags(parser)
    add_layout_flags(parser)
    return parser.parse_args(arguments)


def read_documents(path: Path, tokenizer: Tokenizer, longer_than: int) -> list[list[int]]:
    """Token ids of the documents that exceed the longest window.

    Raises:
        DataError: no such document, a file that cannot be read, or a line that is not what it should be.
    """
    documents = []
    for number, line in enumerate(text_of(path).removesuffix("\n").split("\n"), start=1):
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


def choose_backend(model: Path, request: str, world_size: int) -> str:
    """transformers or megatron.

    Raises:
        ConfigError: transformers was asked for what it cannot do.
    """
    distributed = (model / MANIFEST).is_file()
    if request == "auto":
        return "megatron" if distributed or world_size > 1 else "transformers"
    if request == "transformers" and (distributed or world_size > 1):
        raise ConfigError(
            "--backend",
            required="megatron for a distributed checkpoint, or on more than one rank",
            given=f"transformers for {model} on {world_size} rank{'s' if world_size > 1 else ''}",
            mend="--backend auto",
        )
    return request


def open_scorer(model: Path, args: argparse.Namespace) -> tuple[Scorer, int]:
    """What rates the model's tokens, and how many replicas share the windows."""
    dtype = getattr(torch, args.dtype)
    world_size = groups.launched_world_size()
    if choose_backend(model, args.backend, world_size) == "transformers":
        _say(f"{model.name}: scored by transformers")
        return HuggingFaceScorer(model, dtype=dtype), 1
    summary = read_summary(model)
    layout = layout_of(args, summary.shape)
    build = BuildOptions(params_dtype=dtype, transformer_engine=resolve_transformer_engine("auto"))
    engine = open_engine(summary, layout, build)
    _say(f"{model.name}: {summary.kind} checkpoint scored by megatron, {layout.describe()}")
    return MegatronScorer(engine, model.name), layout.dp


def measure(model: Path, args: argparse.Namespace) -> EvaluationRow:
    """One model's row."""
    tokenizer = build_tokenizer("huggingface", str(tokenizer_folder(args.tokenizer, model)))
    documents = read_documents(args.documents, tokenizer, args.target_window)
    scorer, replicas = open_scorer(model, args)
    settings = EvaluationSettings(
        name=model.name,
        original_window=args.original_window,
        target_window=args.target_window,
        stride=args.stride,
        max_tokens=args.max_tokens,
        measure_passkey=args.passkey_trials > 0,
        num_passkey_lengths=args.passkey_lengths,
        passkey_trials=max(1, args.passkey_trials),
        # Each replica is to have as many windows at a time as it would have alone.
        batch_tokens=EvaluationSettings.batch_tokens * replicas,
    )

    def progress(what: str, done: int, total: int) -> None:
        _say(f"\r{model.name}: {what} {100 * done / total:.0f}%", end="")

    row = evaluate(scorer, documents, tokenizer, settings, progress)
    _say()
    return row


def run(description: str | None = None, arguments: Sequence[str] | None = None) -> None:
    """Measures every model and reports; every launched rank calls it."""
    args = parse(description, arguments)
    for model in args.models:
        choose_backend(model, args.backend, groups.launched_world_size())
    rows = [measure(model, args) for model in args.models]
    if groups.is_global_zero():
        files = write_report(rows, args.results)
        print(render_text(rows))
        print(f"Results: {files.folder}")
    groups.destroy()


def _say(text: str = "", end: str = "\n") -> None:
    """Tells on the first rank how far it is, out of the report's way."""
    if groups.is_global_zero():
        print(text, end=end, file=sys.stderr, flush=True)
