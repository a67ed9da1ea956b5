"""examples/search_longrope.py: LongRoPE's factors, searched for a checkpoint by perplexity on a text."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nemo_pi.checkpoint.collective import gather_objects
from nemo_pi.checkpoint.files import check_writable, sha256_of
from nemo_pi.checkpoint.summary import CheckpointSummary, read_summary
from nemo_pi.cli.flags import add_layout_flags, add_model_flags, layout_of, tokenizer_folder
from nemo_pi.cli.parser import Parser
from nemo_pi.cli.paths import check_paths
from nemo_pi.cli.progress import progress_bar
from nemo_pi.config.extension import resolve_extension
from nemo_pi.config.schema import ModelConfig
from nemo_pi.data.heldout import read_documents
from nemo_pi.data.jsonl import find_files
from nemo_pi.data.tokenizer import Tokenizer, build_tokenizer
from nemo_pi.errors import ConfigError
from nemo_pi.evaluation.perplexity import run_plan
from nemo_pi.evaluation.perplexity_plan import PerplexityPlan
from nemo_pi.evaluation.scorer import Scorer
from nemo_pi.parallel import launcher
from nemo_pi.rope.methods.longrope import LongRope
from nemo_pi.rope.spec import ContextExtension
from nemo_pi.search.evolution import Evolution, Rated, best_of, evolve
from nemo_pi.search.factors import HUNDREDTHS, KNOWN, Factors, Space, as_numbers, factors_of
from nemo_pi.search.lines import yaml_lines
from nemo_pi.search.record import Record
from nemo_pi.units import grouped, plural

RATINGS = "ratings.jsonl"
"""File of the results' folder that a search goes on from."""
FOUND = "longrope_found"
"""Name of the YAML in the folder's group `rope`."""
_COUNTS = ("samples", "population", "iterations", "mutations", "crossovers", "parents", "batch_tokens")


def parse(description: str | None = None, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; `arguments` of the process by default."""
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    paper, add = Evolution(), parser.add_argument
    add("checkpoint", type=Path, help="Hugging Face folder or distributed checkpoint to extend")
    add("--documents", required=True, help="JSON lines (also .gz, .xz), a folder or a quoted glob")
    add("--target-window", type=int, required=True, help="tokens that the model shall read")
    add("--minutes", type=float, help="stop after this long and keep the best (default: search to the end)")
    add("--samples", type=int, default=5, help="documents, a target window read of each (default 5)")
    add("--results", type=Path, default=Path("results/search_longrope"), help="folder to write and resume in")
    for name, what in (
        ("population", "lists rated first"),
        ("iterations", "rounds after them"),
        ("mutations", "lists of a round that change one of the best"),
        ("crossovers", "lists of a round that cross two of the best"),
        ("parents", "the best lists, of which new ones are made"),
        ("seed", "of all draws"),
    ):
        value = getattr(paper, name)
        add(f"--{name}", type=int, default=value, help=f"{what} (default {value})")
    add("--batch-tokens", type=int, default=8192, help="tokens read at a time (default 8192)")
    add_model_flags(parser)
    add_layout_flags(parser)
    return parser.parse_args(arguments)


@dataclass(frozen=True)
class Job:
    """A search that has been checked; no weight is loaded yet."""

    summary: CheckpointSummary
    """The checkpoint."""
    extension: ContextExtension
    """By `longrope`, of the windows asked for; its lists are still ones."""
    text: PerplexityPlan
    """What is read to rate a list."""
    evolution: Evolution
    """How much is searched."""

    def by(self, factors: Factors) -> ContextExtension:
        """The extension by these factors; texts within the original window are read as before."""
        lists = {"long_factor": tuple(as_numbers(factors)), "short_factor": (1.0,) * len(factors)}
        return replace(self.extension, extra=tuple(lists.items()))

    def known(self, method: str) -> ContextExtension:
        """The same windows by a method that computes its factors."""
        return replace(self.extension, method=method, extra=())


def plan(args: argparse.Namespace) -> Job:
    """Checks everything that could end a search later.

    Raises:
        ConfigError, DataError, CheckpointError: naming the flag, file or checkpoint.
    """
    _check_numbers(args)
    flags = ("documents", "tokenizer")
    check_paths([("the checkpoint", args.checkpoint), *((f"--{f}", getattr(args, f)) for f in flags)])
    summary = read_summary(args.checkpoint)
    extension = _extension(args.target_window, summary)
    tokenizer = build_tokenizer("huggingface", str(tokenizer_folder(args.tokenizer, args.checkpoint)))
    text = _text(args, tokenizer)
    names = ("population", "iterations", "mutations", "crossovers", "parents", "seed")
    return Job(summary, extension, text, Evolution(**{name: getattr(args, name) for name in names}))


def run(description: str | None = None, arguments: Sequence[str] | None = None) -> None:
    """Searches, prints the YAML of the best list and writes it; every launched rank calls it."""
    args = parse(description, arguments)
    job = plan(args)
    check_writable("--results", args.results)
    layout = layout_of(args, job.summary.shape)
    first = launcher.is_global_zero()
    if first:
        (args.results / "rope").mkdir(parents=True, exist_ok=True)
    record = Record(args.results / RATINGS, _subject(args, job), writes=first)
    windows = f"{plural(job.text.num_tokens, 'token')} of {plural(len(job.text.spans), 'document')}"
    _say(f"each list of factors is rated by the perplexity of {windows}, all of them scored")
    scorer = _Rater(args, job, layout)
    from nemo_pi.parallel import groups

    # A file system that not all ranks share would have some of them measure alone.
    record.ratings = gather_objects(record.ratings, None)[0]
    known = {name: scorer.perplexity(job.known(name)) for name in KNOWN}
    _say("as they stand: " + ", ".join(f"{name} {value:.4g}" for name, value in known.items()))
    rated = _search(args, job, record, scorer)
    if first:
        _report(args, job, rated, known)
    groups.destroy()


class _Rater:
    """The checkpoint's weights, loaded once, and its perplexity by one extension after another."""

    def __init__(self, args: argparse.Namespace, job: Job, layout: Any) -> None:
        import torch

        # Imported here: what was asked for is looked at before Megatron, which takes seconds to import.
        from nemo_pi.engine.megatron_scorer import MegatronScorer
        from nemo_pi.engine.opening import open_engine
        from nemo_pi.model.engine_layers import resolve_transformer_engine
        from nemo_pi.model.options import BuildOptions

        build = BuildOptions(
            params_dtype=getattr(torch, args.dtype), transformer_engine=resolve_transformer_engine("auto")
        )
        self.engine = open_engine(replace(job.summary, extension=job.extension), layout, build)
        self.scorer: Scorer = MegatronScorer(self.engine, args.checkpoint.name)
        self.text, self.batch_tokens = job.text, args.batch_tokens * layout.dp

    def perplexity(self, extension: ContextExtension) -> float:
        """Of the text, at the target window."""
        from nemo_pi.engine.opening import reposition

        reposition(self.engine, extension)
        return run_plan(self.scorer, self.text, batch_tokens=self.batch_tokens).by_length[
            self.text.lengths[0]
        ]


def _search(args: argparse.Namespace, job: Job, record: Record, rater: _Rater) -> list[Rated]:
    def rate(factors: Factors) -> float:
        if factors not in record.ratings:
            record.add(factors, rater.perplexity(job.by(factors)))
        return record.ratings[factors]

    end = math.inf if args.minutes is None else time.monotonic() + 60 * args.minutes
    starts = [factors_of(job.known(name)) for name in KNOWN]
    rated: list[Rated] = []
    with progress_bar(job.evolution.most_ratings, "list", scaled=False) as bar:
        for one in evolve(starts, Space.of(job.extension.factor), job.evolution, rate):
            rated.append(one)
            bar.set_description(f"best perplexity {best_of(rated).perplexity:.4f}", refresh=False)
            bar.update()
            # One clock for all ranks: none may go on alone.
            if gather_objects(time.monotonic() >= end, None)[0]:
                break
    return rated


def _report(args: argparse.Namespace, job: Job, rated: list[Rated], known: dict[str, float]) -> None:
    best, start = best_of(rated), best_of(rated[: job.evolution.population])
    scored = f"{plural(job.text.num_scored, 'token')} of {plural(len(job.text.spans), 'document')}"
    comment = (
        f"LongRoPE's factors for {job.summary.path.name}, by examples/search_longrope.py, seed {args.seed}.",
        f"Perplexity {best.perplexity:.6g} at {grouped(args.target_window)} tokens ({scored}), untrained;",
        ", ".join(f"{name} {value:.6g}" for name, value in known.items())
        + f"; the best of the first population {start.perplexity:.6g}.",
        f"{grouped(len(rated))} of {grouped(job.evolution.most_ratings)} lists were rated.",
    )
    lines = yaml_lines(job.by(best.factors), comment, rescales=job.summary.extension.is_scaled)
    file = args.results / "rope" / f"{FOUND}.yaml"
    file.write_text(lines, encoding="utf-8")
    print(lines, end="")
    print(
        f"\n{file}: train with it by\n  python examples/extend_context.py --config-dir {args.results} "
        f"model=auto rope={FOUND} restore_from_path={args.checkpoint} \\\n"
        "  model.data.data_prefix=[...]"
    )


def _extension(target: int, summary: CheckpointSummary) -> ContextExtension:
    """LongRoPE over the windows asked for; its lists are ones for now."""
    original = summary.extension.learned_window
    if target <= original:
        raise ConfigError(
            "--target-window",
            required=f"more than the original window, {plural(original, 'token')}",
            given=target,
            fix=f"--target-window {8 * original}",
        )
    ones = [1.0] * (summary.extension.rotary_dim // 2)
    model = ModelConfig(
        max_position_embeddings=target,
        pos_scaling_type=LongRope.name,
        pos_scaling_extra_args={"short_factor": ones, "long_factor": ones},
        allow_rescaling=True,
    )
    return resolve_extension(model, summary.shape, summary)[0]


def _text(args: argparse.Namespace, tokenizer: Tokenizer) -> PerplexityPlan:
    documents = read_documents(
        Path(args.documents).expanduser(), tokenizer, args.target_window, window="--target-window"
    )
    starts = tokenizer.start_ids
    return PerplexityPlan.build(
        # Of each document one window, all of whose labels count.
        documents[: args.samples],
        [args.target_window],
        stride=args.target_window - max(0, len(starts) - 1),
        max_tokens=args.target_window * min(args.samples, len(documents)),
        bos_id=starts or None,
    )


def _subject(args: argparse.Namespace, job: Job) -> dict[str, Any]:
    """Everything that ratings and their order depend on, but for the machine."""
    files = find_files(args.documents)
    return {
        "checkpoint": str(args.checkpoint.expanduser().resolve()),
        "original_window": job.extension.original_window,
        "target_window": job.extension.target_window,
        "documents": [sha256_of(path) for path in files],
        "samples": len(job.text.spans),
        "dtype": args.dtype,
        "step": HUNDREDTHS,
    }


def _check_numbers(args: argparse.Namespace) -> None:
    for name in _COUNTS:
        least = 0 if name in ("iterations", "mutations", "crossovers") else 1
        if getattr(args, name) < least:
            raise ConfigError(
                f"--{name.replace('_', '-')}",
                required=f"{least} or more",
                given=getattr(args, name),
                fix="leave the flag out for the usual number",
            )
    if args.minutes is not None and not args.minutes >= 0:
        raise ConfigError(
            "--minutes", required="0 or more", given=args.minutes, fix="leave it out to search to the end"
        )


def _say(text: str) -> None:
    if launcher.is_global_zero():
        print(text, file=sys.stderr, flush=True)
