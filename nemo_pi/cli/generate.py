"""examples/generate.py: a prompt, a checkpoint of either kind, and the text that follows."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from nemo_pi import collector
from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.cli.flags import (
    add_layout_flags,
    add_model_flags,
    end_ids,
    layout_of,
    text_of,
    tokenizer_folder,
)
from nemo_pi.cli.parser import Parser
from nemo_pi.cli.paths import check_paths
from nemo_pi.data.tokenizer import Tokenizer, build_tokenizer
from nemo_pi.errors import ConfigError
from nemo_pi.evaluation.generation import GenerationRequest
from nemo_pi.evaluation.sampling import Sampling
from nemo_pi.model.options import BuildOptions
from nemo_pi.parallel import launcher
from nemo_pi.parallel.layout import ParallelLayout
from nemo_pi.units import plural


def parse(description: str | None = None, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; `arguments` of the process by default."""
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", type=Path, required=True, help="Hugging Face folder or distributed checkpoint")
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", help="text to go on from")
    prompt.add_argument("--prompt-file", type=Path, help="file with the text to go on from")
    add("--max-new-tokens", type=int, required=True, help="how many tokens to add at most")
    add("--temperature", type=float, default=0.0, help="divides the logits; 0 (default) is greedy")
    add("--top-k", type=int, help="draw among this many likeliest tokens (default: all)")
    add("--top-p", type=float, help="draw among the fewest tokens that reach this probability (default: all)")
    add("--seed", type=int, default=1234, help="of the draws (default 1234)")
    add(
        "--add-bos",
        action=argparse.BooleanOptionalAction,
        help="begin with the beginning-of-text token (default: where the tokenizer itself adds it)",
    )
    add("--ignore-eos", action="store_true", help="go on after an end-of-text token")
    add("--no-cache", action="store_true", help="compute every token from scratch: slow, the same tokens")
    add_model_flags(parser)
    add_layout_flags(parser)
    return parser.parse_args(arguments)


def run(description: str | None = None, arguments: Sequence[str] | None = None) -> None:
    """Generates and prints; every launched rank calls it."""
    args = parse(description, arguments)
    flags = ("model", "prompt_file", "tokenizer")
    check_paths([(f"--{flag.replace('_', '-')}", getattr(args, flag)) for flag in flags])
    sampling = Sampling(args.temperature, args.top_k, args.top_p, args.seed)
    tokenizer = build_tokenizer("huggingface", str(tokenizer_folder(args.tokenizer, args.model)))
    summary = read_summary(args.model)
    # Imported here: what was asked for is looked at before Megatron, which takes seconds to import.
    from nemo_pi.engine.megatron_scorer import MegatronScorer
    from nemo_pi.engine.opening import open_engine
    from nemo_pi.model.generation import check_request
    from nemo_pi.parallel import groups

    collector.resume()
    prompt_1S = torch.tensor([prompt_ids(args, tokenizer)], dtype=torch.int64)
    check_request(summary.extension.target_window, summary.shape.vocab_size, prompt_1S, args.max_new_tokens)
    layout = one_replica(layout_of(args, summary.shape))
    # Local layers: cached generation has been tried with these only.
    engine = open_engine(summary, layout, BuildOptions(params_dtype=getattr(torch, args.dtype)))
    scorer = MegatronScorer(engine, args.model.name, use_cache=not args.no_cache)
    stops = () if args.ignore_eos else end_ids(args.model, tokenizer)
    started = time.perf_counter()
    request = GenerationRequest(args.max_new_tokens, sampling, stop_ids=stops)
    (generated,) = scorer.generate(prompt_1S.tolist(), request)
    if launcher.is_global_zero():
        seconds = time.perf_counter() - started
        print(tokenizer.decode(generated.token_ids))
        print(
            f"{plural(prompt_1S.numel(), 'prompt token')}, {plural(len(generated.token_ids), 'new token')} "
            f"in {seconds:.1f} s; "
            f"{args.model.name}, {summary.kind}, window {summary.extension.target_window:,}, "
            f"{summary.extension.method}, {layout.describe()}",
            file=sys.stderr,
        )
    groups.destroy()


def prompt_ids(args: argparse.Namespace, tokenizer: Tokenizer) -> list[int]:
    """The prompt as tokens.

    Raises:
        ConfigError: --add-bos without such a token. DataError: a file that cannot be read.
    """
    text = args.prompt if args.prompt_file is None else text_of(args.prompt_file)
    starts = tokenizer.start_ids if args.add_bos is not False else ()
    if args.add_bos and not starts:
        if tokenizer.bos_id is None:
            raise ConfigError(
                "--add-bos",
                required="a tokenizer with a beginning-of-text token",
                given=tokenizer.name,
                fix="leave the flag out",
            )
        starts = (tokenizer.bos_id,)
    return [*starts, *tokenizer.encode(text)]


def one_replica(layout: ParallelLayout) -> ParallelLayout:
    """The layout, if all ranks share the one model.

    Raises:
        ConfigError: there are more ranks: they would all do the same.
    """
    if layout.dp > 1:
        whose = "" if layout.pp * layout.cp == 1 else " that pipeline and context leave"
        raise ConfigError(
            "--tensor-model-parallel-size",
            required=f"{layout.tp * layout.dp}, the number of ranks{whose}: one model generates the text",
            given=layout.tp,
            fix="raise it, or launch fewer ranks",
        )
    return layout
