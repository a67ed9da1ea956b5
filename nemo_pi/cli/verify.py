"""examples/verify.py: one checkpoint, all checks, a table, and a status."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from nemo_pi.checkpoint.files import check_writable
from nemo_pi.checkpoint.summary import CheckpointSummary, read_summary
from nemo_pi.cli.flags import text_of, tokenizer_folder
from nemo_pi.cli.parser import Parser
from nemo_pi.cli.paths import check_paths
from nemo_pi.config.parallelism import resolve_layout
from nemo_pi.config.schema import ModelConfig
from nemo_pi.data.tokenizer import build_tokenizer
from nemo_pi.errors import ConfigError
from nemo_pi.families.registry import family_of
from nemo_pi.parallel.layout import ParallelLayout
from nemo_pi.units import plural, short, size_of

_SIZES = ("tp", "pp", "cp", "vpp")
_NUMBER = re.compile(r"([a-z]+)(\d+)")
_LEAST_WINDOW = 4096
"""Tokens that a row may have though the checkpoint's window is shorter."""
FAILED = 1
"""Exit status where something differs by more than rounding explains."""


def parse(description: str | None = None, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; `arguments` of the process by default."""
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("checkpoint", type=Path, help="Hugging Face folder or distributed checkpoint")
    add("--against", type=Path, help="folder that transformers reads in its place: one known to be right")
    add(
        "--layouts",
        default="",
        help="beside one rank, e.g. tp2,pp2,cp2,tp2-sp,pp2-vpp2; their ranks are started here",
    )
    add(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of our weights and activations (default float32, however they are stored)",
    )
    add(
        "--tokens",
        type=int,
        default=32,
        help="of a row (default 32; more than a sliding window, to see it act)",
    )
    add(
        "--text",
        type=Path,
        help="file of text: is it read best as the Hugging Face folder says?",
    )
    add("--layer-by-layer", action="store_true", help="hold one layer even where the model would fit")
    add("--seed", type=int, default=0, help="of tokens and positions (default 0)")
    add("--results", type=Path, help="file for everything that was found, as JSON")
    return parser.parse_args(arguments)


def run(description: str | None = None, arguments: Sequence[str] | None = None) -> int:
    """Checks, prints, and returns the exit status."""
    args = parse(description, arguments)
    flags = {"checkpoint": args.checkpoint, "--against": args.against, "--text": args.text}
    check_paths(list(flags.items()))
    if args.results is not None:
        check_writable("--results", args.results.parent)
    checkpoint = read_summary(args.checkpoint)
    _check_numbers(args, checkpoint)
    layouts = _layouts(args.layouts, checkpoint)
    text_BS = None if args.text is None else _text(args.text, checkpoint)
    # Imported here: what was asked for is looked at before Megatron, which takes seconds to import.
    from nemo_pi.verification.opening import fits_in_memory
    from nemo_pi.verification.report import render, write_results
    from nemo_pi.verification.verify import Request, num_steps, verify

    dtype = getattr(torch, args.dtype)
    most_ranks = max([1, *(layout.cp for _, layout in layouts)])
    request = Request(
        checkpoint=checkpoint,
        against=args.against,
        layouts=layouts,
        dtype=dtype,
        num_tokens=args.tokens,
        keep=not args.layer_by_layer and fits_in_memory(checkpoint, dtype, most_ranks),
        seed=args.seed,
        text_BS=text_BS,
    )
    request.probes()
    _say(describe_cost(request))
    with _bar(num_steps(request)) as bar:

        def say(what: str) -> None:
            bar.set_description(what)

        findings = verify(request, say, lambda: bar.update(1))
    print(render(findings))
    failed = [finding for finding in findings if finding.failed]
    if args.results is not None:
        about = {"checkpoint": str(args.checkpoint), "against": args.against and str(args.against)}
        write_results(args.results, findings, {**about, "dtype": args.dtype, "tokens": args.tokens})
        print(f"Results: {args.results}")
    if failed:
        print(f"{plural(len(failed), 'check')} of {len(findings)} failed.")
    return FAILED if failed else 0


def _check_numbers(args: argparse.Namespace, checkpoint: CheckpointSummary) -> None:
    """Refuses rows that the checkpoint was not made for, and seeds that no generator takes.

    Raises:
        ConfigError: naming the flag.
    """
    most = max(checkpoint.extension.target_window, _LEAST_WINDOW)
    for flag, value, low, high in (("--tokens", args.tokens, 1, most), ("--seed", args.seed, 0, 2**63 - 1)):
        if not low <= value <= high:
            raise ConfigError(flag, required=f"{low} to {high:,}", given=value, fix="leave it out")


def parse_layout(name: str) -> ParallelLayout:
    """`tp2`, `pp2-vpp2`, `tp2-sp`, `tp2-cp2`, … as a layout of one replica.

    Raises:
        ConfigError: another word.
    """
    sizes: dict[str, Any] = {}
    for word in name.split("-"):
        match = _NUMBER.fullmatch(word)
        if word == "sp":
            sizes["sequence_parallel"] = True
        elif match and match[1] in _SIZES and int(match[2]) > 0:
            sizes[match[1]] = int(match[2])
        else:
            raise ConfigError(
                "--layouts",
                required="layouts such as tp2, pp2, cp2, tp2-sp or pp2-vpp2, separated by commas",
                given=repr(name),
                fix="--layouts tp2,pp2,cp2",
            )
    return ParallelLayout(**sizes)


def describe_cost(request: Any) -> str:
    """What will be read and computed, and the memory it takes."""
    from nemo_pi.verification.answers import num_passes

    checkpoint: CheckpointSummary = request.checkpoint
    shape, family = checkpoint.shape, family_of(checkpoint.shape)
    parameters = family.num_parameters(shape)
    stored = parameters * getattr(torch, checkpoint.dtype).itemsize
    rows = len(request.probes().names)
    # transformers reads every row twice: as it is, and rounded.
    passes = num_passes(ParallelLayout()) + 2
    operations = 2 * parameters * rows * request.num_tokens * (4 + 2 * len(request.layouts))
    vocabulary = shape.vocab_size * shape.hidden_size
    largest = max(family.layer_parameters(shape), vocabulary) * request.dtype.itemsize
    held = parameters * request.dtype.itemsize if request.keep else 2 * largest
    logits = 8 * 4 * rows * request.num_tokens * shape.vocab_size
    times = 3 if request.keep else passes
    return (
        f"{checkpoint.path}: {shape.family}, {short(parameters)} parameters, "
        f"{plural(shape.num_layers, 'layer')}\n"
        f"{plural(rows, 'row')} of {plural(request.num_tokens, 'token')}; reads {size_of(stored)} "
        f"{plural(times, 'time')}, about {short(operations)} operations, half of them in float64\n"
        f"about {size_of(held + logits)} of memory, "
        + ("the whole model at once" if request.keep else "a layer at a time")
    )


def _layouts(names: str, checkpoint: CheckpointSummary) -> tuple[tuple[str, ParallelLayout], ...]:
    """The layouts that are asked for, checked against the model."""
    found = []
    for name in filter(None, (part.strip() for part in names.split(","))):
        layout = parse_layout(name)
        sizes = ModelConfig(
            tensor_model_parallel_size=layout.tp,
            pipeline_model_parallel_size=layout.pp,
            virtual_pipeline_model_parallel_size=layout.vpp,
            context_parallel_size=layout.cp,
            sequence_parallel=layout.sequence_parallel,
        )
        found.append((name, resolve_layout(sizes, checkpoint.shape, layout.model_ranks)))
    return tuple(found)


def _text(file: Path, checkpoint: CheckpointSummary) -> torch.Tensor:
    """Rows of a file's text as tokens.

    Raises:
        ConfigError: a distributed checkpoint, or one without a tokenizer. DataError: an unreadable file.
    """
    from nemo_pi.verification.reading import rows_of_text

    if checkpoint.kind != "huggingface":
        raise ConfigError(
            "--text",
            required="a Hugging Face folder, whose weights can be read in other ways",
            given="a distributed checkpoint",
            fix="python examples/convert_checkpoint.py CHECKPOINT FOLDER, then verify FOLDER",
        )
    tokenizer = build_tokenizer("huggingface", str(tokenizer_folder(None, checkpoint.path)))
    tokens = tokenizer.encode(text_of(file))
    if len(tokens) < 2:
        raise ConfigError("--text", required="2 tokens or more", given=len(tokens), fix="another file")
    return rows_of_text(tokens, checkpoint.extension.original_window)


def _bar(total: int) -> Any:
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        unit="module",
        file=sys.stderr,
        dynamic_ncols=terminal,
        ncols=None if terminal else 120,
        mininterval=0.5 if terminal else 30,
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
