"""What examples/search_longrope.py is going to do, checked before a weight is loaded.

Two searches are LongRoPE's (arXiv 2402.13753, sections 3.2 and 3.3): of `long_factor`, at the window that a
model shall read; and, once it has been trained with those, of `short_factor`, at the window it read before.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nemo_pi.checkpoint.files import sha256_of
from nemo_pi.checkpoint.summary import CheckpointSummary, read_summary
from nemo_pi.cli.flags import tokenizer_folder
from nemo_pi.cli.paths import check_paths
from nemo_pi.config.extension import resolve_extension
from nemo_pi.config.schema import ModelConfig
from nemo_pi.data.heldout import read_documents
from nemo_pi.data.jsonl import find_files
from nemo_pi.data.tokenizer import Tokenizer, build_tokenizer
from nemo_pi.errors import ConfigError
from nemo_pi.evaluation.perplexity_plan import PerplexityPlan
from nemo_pi.rope.methods.longrope import LongRope
from nemo_pi.rope.spec import ContextExtension
from nemo_pi.search.evolution import Evolution
from nemo_pi.search.factors import HUNDREDTHS, KNOWN, Factors, as_numbers, as_rounded, factors_of
from nemo_pi.units import plural

LONG, SHORT = "long_factor", "short_factor"
COUNTS = ("samples", "population", "iterations", "mutations", "crossovers", "parents", "batch_tokens")
"""Flags that count something."""


@dataclass(frozen=True)
class Job:
    """A search that has been checked; no weight is loaded yet."""

    summary: CheckpointSummary
    """Of the checkpoint."""
    extension: ContextExtension
    """By LongRoPE; the list that is searched is replaced."""
    searched: str
    """Which of the two lists that is."""
    text: PerplexityPlan
    """What every list is rated by, in windows of the target's length, for short_factor of the original's."""
    evolution: Evolution
    """How much is searched."""

    @property
    def window(self) -> int:
        """Tokens that the model reads at a time."""
        return self.text.lengths[0]

    def by(self, factors: Factors) -> ContextExtension:
        """The extension with these factors in place of those that are searched."""
        lists = {**self.extension.extra_args, self.searched: tuple(as_numbers(factors))}
        return replace(self.extension, extra=tuple(lists.items()))

    def known(self) -> dict[str, tuple[ContextExtension, Factors]]:
        """What is there without a search, by name, and the factors of each, which the search begins with."""
        if self.searched == LONG:
            others = {name: replace(self.extension, method=name, extra=()) for name in KNOWN}
            return {name: (extension, factors_of(extension)) for name, extension in others.items()}
        lists = self.extension.extra_args
        plain = (1.0,) * len(lists[LONG])
        starts = {"short_factor as it is": lists[SHORT], "ones": plain, LONG: lists[LONG]}
        return {name: (self.by(as_rounded(one)), as_rounded(one)) for name, one in starts.items()}


def plan(args: argparse.Namespace) -> Job:
    """Checks everything that could end a search later.

    Raises:
        ConfigError, DataError, CheckpointError: naming the flag, file or checkpoint.
    """
    _check_numbers(args)
    flags = ("documents", "tokenizer")
    check_paths([("the checkpoint", args.checkpoint), *((f"--{f}", getattr(args, f)) for f in flags)])
    summary = read_summary(args.checkpoint)
    extension = _extended(args, summary) if args.short else _extension(args, summary)
    tokenizer = build_tokenizer("huggingface", str(tokenizer_folder(args.tokenizer, args.checkpoint)))
    text = _text(args, tokenizer, extension)
    names = ("population", "iterations", "mutations", "crossovers", "parents", "seed")
    evolution = Evolution(**{name: getattr(args, name) for name in names})
    return Job(summary, extension, SHORT if args.short else LONG, text, evolution)


def _extension(args: argparse.Namespace, summary: CheckpointSummary) -> ContextExtension:
    """LongRoPE over the windows asked for; its lists are ones for now."""
    original, target = summary.extension.learned_window, args.target_window
    if target is None or target <= original:
        raise ConfigError(
            "--target-window",
            required=f"more than the original window, {plural(original, 'token')}",
            given="nothing" if target is None else target,
            fix=f"--target-window {8 * original}",
        )
    ones = [1.0] * (summary.extension.rotary_dim // 2)
    model = ModelConfig(
        max_position_embeddings=target,
        pos_scaling_type=LongRope.name,
        pos_scaling_extra_args={SHORT: ones, LONG: ones},
        allow_rescaling=True,
    )
    return resolve_extension(model, summary.shape, summary)[0]


def _extended(args: argparse.Namespace, summary: CheckpointSummary) -> ContextExtension:
    """The checkpoint's own, which has to have a list for each side of its original window."""
    extension = summary.extension
    if extension.method != LongRope.name:
        raise ConfigError(
            "--short",
            required=f"a checkpoint that was extended by {LongRope.name}: short_factor is searched beside "
            "the long_factor that it was trained with",
            given=f"one by {extension.method}",
            fix="leave out --short, train with what is found, and search again with the trained checkpoint",
        )
    if args.target_window not in (None, extension.target_window):
        raise ConfigError(
            "--target-window",
            required=f"{extension.target_window}, the checkpoint's own, with --short",
            given=args.target_window,
            fix="leave it out",
        )
    return extension


def _text(args: argparse.Namespace, tokenizer: Tokenizer, extension: ContextExtension) -> PerplexityPlan:
    """A target window's worth of each document, all of its labels scored, read in windows of one length."""
    target, original = extension.target_window, extension.original_window
    length = original if args.short else target
    documents = read_documents(Path(args.documents).expanduser(), tokenizer, target, window="--target-window")
    starts = tokenizer.start_ids
    return PerplexityPlan.build(
        documents[: args.samples],
        [length],
        stride=length - max(0, len(starts) - 1),
        max_tokens=target * min(args.samples, len(documents)),
        bos_id=starts or None,
    )


def subject(args: argparse.Namespace, job: Job) -> dict[str, Any]:
    """Everything that ratings and their order depend on, but for the machine."""
    files = find_files(args.documents)
    about = {
        "checkpoint": str(args.checkpoint.expanduser().resolve()),
        "original_window": job.extension.original_window,
        "target_window": job.extension.target_window,
        "documents": [sha256_of(path) for path in files],
        "samples": len(job.text.spans),
        "dtype": args.dtype,
        "step": HUNDREDTHS,
    }
    return about if job.searched == LONG else {**about, LONG: list(job.extension.extra_args[LONG])}


def _check_numbers(args: argparse.Namespace) -> None:
    for name in COUNTS:
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
