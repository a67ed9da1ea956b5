"""examples/search_longrope.py: LongRoPE's factors, searched for a checkpoint by perplexity on a text."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nemo_pi.checkpoint.collective import gather_objects
from nemo_pi.checkpoint.files import check_writable
from nemo_pi.cli.flags import add_layout_flags, add_model_flags, layout_of
from nemo_pi.cli.parser import Parser
from nemo_pi.cli.progress import progress_bar
from nemo_pi.cli.search_plan import LONG, Job, plan, subject
from nemo_pi.evaluation.perplexity import run_plan
from nemo_pi.evaluation.scorer import Scorer
from nemo_pi.parallel import launcher
from nemo_pi.rope.spec import ContextExtension
from nemo_pi.search.evolution import Evolution, Rated, best_of, evolve
from nemo_pi.search.factors import Factors, Space
from nemo_pi.search.lines import yaml_lines
from nemo_pi.search.record import Record
from nemo_pi.units import grouped, plural

RATINGS = "ratings.jsonl"
"""File of the results' folder that a search goes on from."""
FOUND = "longrope_found"
"""Name of the YAML in the folder's group `rope`."""
_RESULTS = "results/search_longrope"
_LEAST_POPULATION = 16


def parse(description: str | None = None, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; `arguments` of the process by default."""
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    paper, add = Evolution(), parser.add_argument
    add("checkpoint", type=Path, help="Hugging Face folder or distributed checkpoint to extend")
    add("--documents", required=True, help="JSON lines (also .gz, .xz), a folder or a quoted glob")
    add("--target-window", type=int, help="tokens that the model shall read")
    add(
        "--short",
        action="store_true",
        help="search short_factor, for texts within the original window, of a checkpoint that was trained "
        "with the long_factor found",
    )
    add("--minutes", type=float, help="stop after this long and keep the best (default: search to the end)")
    add("--samples", type=int, default=5, help="documents, a target window read of each (default 5)")
    add("--results", type=Path, help=f"folder to write and resume in (default {_RESULTS}, {_RESULTS}_short)")
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
    args = parser.parse_args(arguments)
    if args.results is None:
        args.results = Path(f"{_RESULTS}_short" if args.short else _RESULTS)
    return args


def run(description: str | None = None, arguments: Sequence[str] | None = None) -> None:
    """Searches, prints the YAML of the best list and writes it; every launched rank calls it."""
    args = parse(description, arguments)
    job = plan(args)
    check_writable("--results", args.results)
    layout = layout_of(args, job.summary.shape)
    first = launcher.is_global_zero()
    if first:
        (args.results / "rope").mkdir(parents=True, exist_ok=True)
    record = Record(args.results / RATINGS, subject(args, job), writes=first)
    tokens = f"{plural(job.text.num_tokens, 'token')} of {plural(len(job.text.spans), 'document')}"
    windows = f"{grouped(job.window)} at a time, all of them scored"
    _say(f"each list of factors is rated by the perplexity of {tokens}, {windows}")
    scorer = _Rater(args, job, layout)
    from nemo_pi.parallel import groups

    # A file system that not all ranks share would have some of them measure alone.
    record.ratings = gather_objects(record.ratings, None)[0]
    begin = time.monotonic()
    known = {name: scorer.perplexity(extension) for name, (extension, _) in job.known().items()}
    seconds = gather_objects((time.monotonic() - begin) / len(known), None)[0]
    _say("as they stand: " + ", ".join(f"{name} {value:.4g}" for name, value in known.items()))
    _say(describe_time(job.evolution, seconds, args.minutes))
    rated = _search(args, job, record, scorer)
    if first:
        _report(args, job, rated, known)
    groups.destroy()


def describe_time(evolution: Evolution, seconds: float, minutes: float | None) -> str:
    """How long the search takes, and what to ask for where the time given ends it in its first population.

    Args:
        evolution: how much is searched.
        seconds: that rating a list takes.
        minutes: given to the search; None: as many as it needs.
    """
    most = evolution.most_ratings
    if minutes is None or 60 * minutes >= most * seconds:
        return f"a list takes {seconds:.1f} s: {plural(most, 'list')} about {most * seconds / 60:.0f} minutes"
    lists = round(60 * minutes / seconds)
    enough = f"{minutes:g} minutes are enough for about {lists:,} of {most:,} lists"
    text = f"a list takes {seconds:.1f} s: {enough}"
    if lists >= 2 * evolution.population or evolution.population <= _LEAST_POPULATION:
        return text
    return (
        f"{text}, and {evolution.population} are only the first population; --population {_LEAST_POPULATION} "
        "--mutations 4 --crossovers 4 --parents 8 come sooner to rounds that improve on it"
    )


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
        """Of the text."""
        from nemo_pi.engine.opening import reposition

        reposition(self.engine, extension)
        (perplexity,) = run_plan(self.scorer, self.text, batch_tokens=self.batch_tokens).by_length.values()
        return perplexity


def _search(args: argparse.Namespace, job: Job, record: Record, rater: _Rater) -> list[Rated]:
    def rate(factors: Factors) -> float:
        if factors not in record.ratings:
            record.add(factors, rater.perplexity(job.by(factors)))
        return record.ratings[factors]

    end = math.inf if args.minutes is None else time.monotonic() + 60 * args.minutes
    starts = [factors for _, factors in job.known().values()]
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
        f"Perplexity {best.perplexity:.6g} at {grouped(job.window)} tokens ({scored}), "
        + ("untrained;" if job.searched == LONG else "with its weights as they are;"),
        ", ".join(f"{name} {value:.6g}" for name, value in known.items())
        + f"; the best of the first population {start.perplexity:.6g}.",
        f"{grouped(len(rated))} of {grouped(job.evolution.most_ratings)} lists were rated.",
    )
    lines = yaml_lines(job.by(best.factors), comment, rescales=job.summary.extension.is_scaled)
    file = args.results / "rope" / f"{FOUND}.yaml"
    file.write_text(lines, encoding="utf-8")
    print(lines, end="")
    as_good = [name for name, value in known.items() if value <= best.perplexity]
    if as_good:
        print(f"\nNothing was found that reads better than {' or '.join(as_good)} as it stands.")
    if job.searched != LONG and job.summary.kind == "huggingface":
        print(f"\nWithout training: write its short_factor into {job.summary.path / 'config.json'}.")
    print(
        f"\n{file}: train with it by\n  python examples/extend_context.py --config-dir {args.results} "
        f"model=auto rope={FOUND} restore_from_path={args.checkpoint} \\\n"
        "  model.data.data_prefix=[...]"
    )


def _say(text: str) -> None:
    if launcher.is_global_zero():
        print(text, file=sys.stderr, flush=True)
