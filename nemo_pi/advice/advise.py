"""From a checkpoint and a text to advice: everything between the command line and the report."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nemo_pi.advice import architecture
from nemo_pi.advice.heads import LargestPulls, measure_pulls
from nemo_pi.advice.proposals import Asked, Proposal, base_extension, propose
from nemo_pi.advice.report import Section, choices, protocols, ranking_tables, training_lines, verdict
from nemo_pi.advice.session import Outcome
from nemo_pi.advice.speed import Speed, measure_speed
from nemo_pi.advice.theorem import describe_theorem
from nemo_pi.checkpoint.summary import CheckpointSummary
from nemo_pi.evaluation.huggingface import HuggingFaceScorer
from nemo_pi.evaluation.passkey_text import start_ids
from nemo_pi.evaluation.tasks.base import TaskContext
from nemo_pi.evaluation.text_tables import MISSING, Table
from nemo_pi.families.registry import family_of
from nemo_pi.families.shape import ModelShape
from nemo_pi.rope.spec import ContextExtension

PULL_ROWS, PULL_TOKENS, PULL_LEAST = 4, 8192, 512
"""Texts in which the largest |h_j| is looked for, tokens of all of them, and how many of these are read
however little time there is."""
PULL_SHARE = 0.1
"""Of the time allowed, at most for these texts."""
PROBE_LENGTH, PROBE_TOKENS = 1024, 4096
"""Tokens of a row and of a batch by which speed is measured."""
PROBE_SHARE = 0.05
"""Of the time allowed, about as much as measuring the speed may take."""


@dataclass(frozen=True)
class Case:
    """What is known before a model is loaded."""

    summary: CheckpointSummary
    """Of the checkpoint."""
    asked: Asked
    """What is wanted of it."""
    base: ContextExtension
    """Its positions as they are."""
    proposals: list[Proposal]
    """What is tried."""
    left_out: list[str]
    """Candidates that are not, and why."""

    @classmethod
    def read(cls, summary: CheckpointSummary, asked: Asked) -> Case:
        """Everything that follows from the checkpoint's headers.

        Raises:
            ConfigError: a window that extends nothing, a scaling that is there already, an unknown method.
        """
        base = base_extension(summary, asked)
        proposals, left_out = propose(summary, asked)
        return cls(summary, asked, base, proposals, left_out)

    @property
    def original_window(self) -> int:
        """Tokens it was pretrained on."""
        return self.base.original_window


def probe(
    scorer: HuggingFaceScorer, case: Case, context: TaskContext, budget_seconds: float = math.inf
) -> Speed:
    """How fast the model reads: a batch of short rows, and one of rows four times as long; of shorter ones
    where these would take too much of the time allowed."""
    scorer.read_as(case.base)
    shorter = min(context.original_window, PROBE_LENGTH)
    longer = min(context.target_window, 4 * shorter)
    text_S = torch.tensor(context.documents[0][: longer + 1], dtype=torch.int64)
    batch_tokens = min(context.batch_tokens, PROBE_TOKENS)
    most_seconds, share = PROBE_SHARE * budget_seconds, pair_share(case.summary.shape)
    return measure_speed(scorer, text_S, (shorter, longer), batch_tokens, most_seconds, share)


def pair_share(shape: ModelShape) -> float:
    """Operations of attention for each token before a token, divided by those of a token by itself.

    Two operations a weight and token; for a query and a key two a channel, and two more to weigh its value,
    of which causal attention needs half. Layers with a sliding window see too few keys to count.
    """
    layers = shape.num_layers - len(shape.sliding_layers)
    return (
        layers * shape.num_attention_heads * shape.head_dim * 2 / (2 * family_of(shape).num_parameters(shape))
    )


def pull_texts(context: TaskContext, speed: Speed, budget_seconds: float = math.inf) -> Tensor:
    """Where the largest |h_j| is looked for: beginnings of documents [B, S], as long as the original window,
    shorter and fewer where they would take too much of the time allowed. The last token is only a label."""
    own = start_ids(context.tokenizer) if context.add_bos else ()
    length = min(context.original_window, PULL_TOKENS)
    while length > PULL_LEAST and speed.seconds([(1, length)]) > PULL_SHARE * budget_seconds:
        length = max(PULL_LEAST, length // 2)
    count = min(PULL_ROWS, PULL_TOKENS // length)
    while count > 1 and speed.seconds([(count, length)]) > PULL_SHARE * budget_seconds:
        count -= 1
    rows = [[*own, *document][: length + 1] for document in context.documents[:count]]
    return torch.tensor(rows, dtype=torch.int64)


def pulls_of(scorer: HuggingFaceScorer, case: Case, text_BS: Tensor) -> LargestPulls | None:
    """The largest |h_j| in texts that the model reads as it was trained to."""
    scorer.read_as(case.base)
    shape = case.summary.shape
    layers = set(range(shape.num_layers)) - set(shape.unrotated_layers)
    if case.base.sliding is not None:
        layers -= set(shape.sliding_layers)  # rotated by frequencies of their own
    return measure_pulls(scorer, case.base, text_BS, layers)


def architecture_section(case: Case) -> Section:
    """What is known to make a model hard to extend, as this one has it."""
    found = architecture.traits(case.summary.shape, case.original_window)
    lines = tuple((trait.name, trait.evidence, "harder" if trait.found else MISSING) for trait in found)
    table = Table(f"What {architecture.SOURCE} found to matter", ("property", "this model", "effect"), lines)
    meaning = (
        f"{architecture.verdict(found)}. What the data was, and whether documents were masked from each "
        "other in pretraining, no configuration says."
    )
    return Section("How hard this model is to extend", (table, meaning))


def sections(
    case: Case, outcome: Outcome, pulls: LargestPulls | None, command: Callable[[Proposal], str]
) -> list[Section]:
    """The whole report.

    Args:
        case: what was asked.
        outcome: what was measured.
        pulls: the largest |h_j|, if it could be measured.
        command: what starts a run of a proposal.
    """
    body: list[str | Table] = [verdict(outcome, case.proposals), *ranking_tables(outcome)]
    found = [
        Section(f"{case.original_window:,} → {case.asked.target_window:,} tokens, untrained", tuple(body))
    ]
    for why, proposal, _ in choices(outcome, case.proposals):
        yaml = "\n".join(f"    {line}" for line in proposal.yaml.splitlines())
        lines = [f"{proposal.label}." + (f" {proposal.source}." if proposal.source else ""), yaml]
        lines += ["The same on the command line (give your own data; dry_run=true prints the plan):"]
        lines += ["    " + command(proposal).replace("\n", "\n    ")]
        if proposal.training:
            lines.append(f"Training it is known to need: {proposal.training}.")
        found.append(Section(why, tuple(lines)))
    lines = training_lines(outcome, case.proposals)
    if lines:
        found.append(Section("Training each method is known to need", (_listed(lines),)))
    found.append(_theorem_section(case, pulls))
    found.append(architecture_section(case))
    left = [*case.left_out, *outcome.left_out]
    found.append(Section("Left out", (_listed(left) or "Nothing.",)))
    measured = protocols(outcome)
    if measured:
        found.append(Section("How it was measured", (_listed(measured),)))
    return found


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _theorem_section(case: Case, pulls: LargestPulls | None) -> Section:
    title = "Theorem 2.1 of Position Interpolation, with this model's own queries and keys"
    if pulls is None:
        return Section(
            title, ("Not measured: this model's class computes attention where it cannot be watched.",)
        )
    multiplier = case.summary.shape.attention_multiplier
    scale = multiplier if multiplier is not None else case.base.head_dim**-0.5
    return Section(title, (describe_theorem(pulls, case.base, scale),))


def now() -> float:
    """Seconds on the clock that deadlines are on."""
    return time.perf_counter()


def results_name(folder: Path, target_window: int) -> str:
    """Name of the folder for a checkpoint's advice."""
    return f"{folder.resolve().name}-{target_window}"
