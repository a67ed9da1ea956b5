"""Command line of the preprocessing, with NeMo's flags."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from nemo_pi.cli.home import ensure_home
from nemo_pi.cli.parser import Parser
from nemo_pi.data.preprocess import PreprocessConfig, preprocess
from nemo_pi.data.tokenizer import LIBRARIES
from nemo_pi.errors import NemoPiError
from nemo_pi.units import plural


def parser() -> argparse.ArgumentParser:
    """The flags."""
    parse = Parser(
        prog="preprocess_data.py", description="Write PREFIX_KEY_document.bin and .idx from JSONL."
    )
    group = parse.add_argument_group("input")
    group.add_argument("--input", required=True, help="JSONL file (also .gz, .xz), folder or quoted glob")
    group.add_argument(
        "--preproc-folder", action="store_true", help="has no effect: a folder is recognised as one"
    )
    group.add_argument("--json-keys", nargs="+", default=["text"], help="keys to encode (default: text)")
    group.add_argument(
        "--chat",
        action="store_true",
        help="lines are conversations (messages, ShareGPT's conversations, or input_ids with labels): the "
        "tokenizer's chat template renders them, and the answers alone are learned",
    )
    group.add_argument("--max-tokens", type=int, help="leave longer conversations out (default: none)")
    group = parse.add_argument_group("tokenizer")
    group.add_argument(
        "--tokenizer-library",
        required=True,
        choices=[*LIBRARIES, "megatron"],
        help="megatron: GPT-2 files given by --vocab-file and --merge-file",
    )
    group.add_argument("--tokenizer-type", help="path of the tokenizer, where --tokenizer-model is not given")
    group.add_argument("--tokenizer-model", help="tokenizer folder, tokenizer.json or sentencepiece .model")
    group.add_argument("--vocab-file", help="GPT-2 style vocab.json")
    group.add_argument("--merge-file", help="GPT-2 style merges.txt")
    group.add_argument(
        "--append-eod", action="store_true", help="end each document with the end-of-document id"
    )
    group = parse.add_argument_group("output")
    group.add_argument("--output-prefix", required=True, help="path without _KEY_document and extension")
    group.add_argument("--dataset-impl", default="mmap", choices=["mmap"], help="only mmap exists")
    group.add_argument("--overwrite", action="store_true", help="replace existing output")
    group = parse.add_argument_group("run")
    group.add_argument("--workers", type=int, default=1, help="encoding processes (default: 1)")
    group.add_argument("--log-interval", type=int, default=1000, help="documents between progress lines")
    return parse


def to_config(args: argparse.Namespace) -> PreprocessConfig:
    """The configuration that parsed flags describe."""
    return PreprocessConfig(
        input=args.input,
        output_prefix=args.output_prefix,
        tokenizer={
            "library": args.tokenizer_library,
            "model": args.tokenizer_model,
            "type": args.tokenizer_type,
            "vocab_file": args.vocab_file,
            "merge_file": args.merge_file,
        },
        json_keys=tuple(args.json_keys),
        append_eod=args.append_eod,
        workers=args.workers,
        log_interval=args.log_interval,
        overwrite=args.overwrite,
        chat=args.chat,
        max_tokens=args.max_tokens,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0 on success, 2 with a message on a user's mistake."""
    ensure_home()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        args = parser().parse_args(argv)
        result = preprocess(to_config(args))
    except NemoPiError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    documents, tokens = plural(result.num_documents, "document"), plural(result.num_tokens, "token")
    print(f"{documents}, {tokens}, {result.num_empty} empty left out")
    if args.chat:
        print(
            f"{result.num_scored:,} of the tokens are answers; left out: {result.num_too_long:,} longer than "
            f"allowed, {result.num_unanswered:,} without an answer"
        )
    for prefix in result.prefixes:
        print(prefix)
    return 0
