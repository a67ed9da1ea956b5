"""examples/advise.py: which method suits a checkpoint, measured before anyone trains it."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from nemo_pi.advice import advise
from nemo_pi.advice.advise import Case
from nemo_pi.advice.proposals import Asked
from nemo_pi.advice.report import as_markdown, as_text, draw
from nemo_pi.advice.rounds import choose
from nemo_pi.advice.session import Outcome, Session, describe_rounds
from nemo_pi.advice.store import Store
from nemo_pi.checkpoint.files import check_writable
from nemo_pi.checkpoint.summary import CheckpointSummary
from nemo_pi.cli.advise_arguments import about, check_numbers, context_of, parse, readable
from nemo_pi.cli.ends import INTERRUPTED
from nemo_pi.cli.paths import check_paths
from nemo_pi.cli.progress import progress_bar
from nemo_pi.evaluation.huggingface import HuggingFaceScorer
from nemo_pi.evaluation.tasks.base import TaskContext
from nemo_pi.families.registry import family_of
from nemo_pi.units import plural, short

RESULTS, PAGE, PICTURE = "results.json", "advice.md", "perplexity.png"


def run(description: str | None = None, arguments: Sequence[str] | None = None) -> int:
    """Checks, says what it costs, measures, ranks, and returns the exit status."""
    args = parse(description, arguments)
    named = {"checkpoint": args.checkpoint, "--documents": args.documents, "--tokenizer": args.tokenizer}
    check_paths(list(named.items()))
    check_numbers(args)
    summary = readable(args.checkpoint)
    methods = None if args.methods is None else [name.strip() for name in args.methods.split(",")]
    asked = Asked(args.target_window, args.original_window, args.allow_rescaling, methods)
    case = advise.Case.read(summary, asked)
    folder = args.results or Path("results/advice") / advise.results_name(args.checkpoint, args.target_window)
    folder = folder.expanduser()
    check_writable("--results", folder)
    context = context_of(args, case.original_window)
    _say(_describe(args, summary, case, context))
    folder.mkdir(parents=True, exist_ok=True)
    store = Store.open(folder / RESULTS, about(args, asked))
    try:
        outcome = _measure(args, case, context, store)
    except KeyboardInterrupt:
        _say("Stopped before anything was measured.")
        return INTERRUPTED
    found = advise.sections(case, outcome, store.pulls, lambda proposal: _command(args, proposal.overrides))
    print(as_text(found), flush=True)
    picture = draw(outcome, folder / PICTURE)
    title = f"{args.checkpoint.resolve().name}: {case.original_window:,} → {args.target_window:,} tokens"
    (folder / PAGE).write_text(as_markdown(title, found, picture), encoding="utf-8")
    print(f"Results: {folder / PAGE}" + (f", {picture}" if picture else "") + f", {folder / RESULTS}")
    if outcome.stopped:
        print("Stopped. The same command goes on from here.")
        return INTERRUPTED
    return 0


def _measure(args: argparse.Namespace, case: Case, context: TaskContext, store: Store) -> Outcome:
    """Measures as far as the time allows."""
    started = advise.now()
    deadline = started + 60 * args.minutes
    session = _prepare(args, case, context, store, deadline)
    with progress_bar(int(session.left(store.rounds, session.tokens_of)), "token") as bar:
        before = 0

        def progress(what: str, done: int, _: int) -> None:
            nonlocal before
            bar.set_description(what, refresh=False)
            bar.update(done if done < before else done - before)
            before = done

        outcome = session.run(case.proposals, store.rounds, deadline, progress)
        if not outcome.left_out:
            bar.update(bar.total - bar.n)  # a model whose positions are plain is not measured twice
    _say(f"took    {(advise.now() - started) / 60:.1f} minutes")
    return outcome


def _prepare(
    args: argparse.Namespace, case: Case, context: TaskContext, store: Store, deadline: float
) -> Session:
    """Loads the model once, says what measuring costs, and looks at its queries and keys."""
    started, budget = advise.now(), 60 * args.minutes
    disable_progress_bar()  # of loading weights, beside which ours would stand
    scorer = HuggingFaceScorer(args.checkpoint, dtype=getattr(torch, args.dtype))
    planned = bool(store.rounds) and store.minutes == args.minutes
    if store.speed is None or not planned:  # that of an earlier start may be of a busier machine
        _say(f"speed   being measured on a few batches; loading took {advise.now() - started:.0f} s")
        store.speed = advise.probe(scorer, case, context, budget)
    session = Session(scorer, case.base, context, store, store.speed)
    text_BS = advise.pull_texts(context, store.speed, budget)
    if store.pulls is not None and store.pulls.num_tokens >= text_BS.numel():
        text_BS = text_BS[:0]
    if not planned:
        left = deadline - advise.now() - store.speed.seconds([(len(text_BS), text_BS.size(1))])
        store.rounds = choose(len(case.proposals), session.seconds_of, left, args.windows)
        store.minutes = args.minutes
    store.write()
    _say(_describe_cost(args, session, store, context, text_BS))
    if len(text_BS):
        store.pulls = advise.pulls_of(scorer, case, text_BS)
        store.write()
    return session


def _describe(args: argparse.Namespace, summary: CheckpointSummary, case: Case, context: TaskContext) -> str:
    parameters = family_of(summary.shape).num_parameters(summary.shape)
    methods = dict.fromkeys(proposal.method for proposal in case.proposals)
    lines = [
        f"model   {args.checkpoint}: {summary.shape.family}, {short(parameters)} parameters",
        f"window  {case.original_window:,} → {args.target_window:,} tokens "
        f"({args.target_window / case.original_window:.3g} times; the first from {summary.window_source})",
        f"text    {plural(len(context.documents), 'document')} long enough, of {args.documents}",
        f"tries   {plural(len(case.proposals), 'candidate')} of {plural(len(methods), 'method')}: "
        f"{', '.join(methods)}",
    ]
    return "\n".join(lines)


def _describe_cost(
    args: argparse.Namespace, session: Session, store: Store, context: TaskContext, text_BS: Tensor
) -> str:
    assert store.speed is not None, "it has been measured"
    lengths = (context.original_window, context.target_window)
    rates = ", ".join(f"{store.speed.tokens_per_second(n):,.0f} tokens/s at {n:,}" for n in lengths)
    pulls = [f"first: the largest |h_j| in {plural(text_BS.numel(), 'token')}"] if len(text_BS) else []
    seconds = session.left(store.rounds, session.seconds_of)
    seconds += store.speed.seconds([(len(text_BS), text_BS.size(1))])
    tokens = text_BS.numel() + int(session.left(store.rounds, session.tokens_of))
    allowed = f"about {seconds / 60:.1f} of the {args.minutes:g} minutes allowed"
    kept = sum(map(len, store.results.values()))
    return "\n".join(
        [
            f"speed   {rates} (by a few batches)",
            *pulls,
            *describe_rounds(session, store.rounds, context),
            f"cost    {short(tokens)} tokens, {allowed}"
            + (f"; {plural(kept, 'measurement')} of an earlier start are kept" if kept else ""),
            "        Ctrl-C reports what is measured by then; the same command goes on from there",
        ]
    )


def _command(args: argparse.Namespace, overrides: Sequence[str]) -> str:
    """What starts a run, in lines that a shell takes as one."""
    start = ["python examples/extend_context.py", "model=auto", f"restore_from_path={args.checkpoint}"]
    words = [shlex.quote(start[2]), *overrides, "model.data.data_prefix=[data/train_text_document]"]
    return " \\\n  ".join([" ".join(start[:2]), *words, "dry_run=true"])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
