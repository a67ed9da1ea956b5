"""Whether a model reads text best as its folder says that its positions are made.

Two readers of one wrong folder agree with each other. But a model that was trained knows how it was rotated:
read with another base, without its scaling, or with other pairs of channels, text surprises it more. Where it
surprises it less, the folder is wrong.

Shape legend: B rows, S tokens of a row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nemo_pi.checkpoint.summary import CheckpointSummary
from nemo_pi.model.options import BuildOptions
from nemo_pi.parallel.layout import ParallelLayout
from nemo_pi.rope.positions import text_positions
from nemo_pi.rope.spec import ContextExtension
from nemo_pi.verification.answers import logits_of
from nemo_pi.verification.findings import FAILED, NOTE, OK, Finding
from nemo_pi.verification.opening import OpenedModel

BASES = (1e4, 1e5, 5e5, 1e6, 5e6)
"""Of published models; a wrong one is mostly another model's."""
LESS = 0.02
"""Nats per token by which another reading must be better: random differences of a few rows are smaller."""
UNSCALED = "without its scaling"
"""Name of the reading by plain RoPE."""
ROWS, LONGEST = 4, 256
"""Rows of text, and their tokens, where the window is as long."""


def other_readings(extension: ContextExtension) -> dict[str, ContextExtension]:
    """What the same weights could have been trained with instead, by name."""
    found = {"with other pairs of channels": replace(extension, interleaved=not extension.interleaved)}
    if extension.is_scaled:
        found[UNSCALED] = ContextExtension.unscaled(
            extension.target_window,
            extension.head_dim,
            extension.base,
            extension.rotary_percent,
            extension.interleaved,
        )
    for base in BASES:
        if not 0.9 < base / extension.base < 1.1:
            found[f"with the base {base:g}"] = replace(extension, base=base)
    return found


def rows_of_text(token_ids: list[int], window: int) -> Tensor:
    """int64 [B, S], as many as there are, from the text's beginning on."""
    length = min(LONGEST, window, len(token_ids))
    rows = min(ROWS, len(token_ids) // length)
    return torch.tensor(token_ids[: rows * length]).view(rows, length)


def reading_findings(
    checkpoint: CheckpointSummary, tokens_BS: Tensor, dtype: torch.dtype, *, keep: bool
) -> Iterator[Finding]:
    """The text's loss as the checkpoint says, beside every other reading; on one rank.

    Args:
        checkpoint: a Hugging Face folder.
        tokens_BS: int64, rows of text inside the original window.
        dtype: of weights and activations.
        keep: whether a model stays whole in memory while it is read.
    """
    given, others = checkpoint.extension, other_readings(checkpoint.extension)
    loss = _loss(checkpoint, given, tokens_BS, dtype, keep)
    gains = {name: loss - _loss(checkpoint, other, tokens_BS, dtype, keep) for name, other in others.items()}
    # A model that was scaled and not trained since reads short text better as it was before.
    untrained = gains.get(UNSCALED, 0.0) > LESS
    for name, gain in gains.items():
        better = gain > LESS
        verdict = OK if not better else NOTE if untrained else FAILED
        where = f"loss {loss:.2f}, {name} {loss - gain:.2f}"
        if better:
            where += ": not trained since it was scaled?" if untrained else ": what the folder says is wrong"
        why = "nats per token; a folder that is right is read best as it says"
        yield Finding("loss of the text", name, verdict, max(gain, 0.0), LESS, where, why)


def _loss(
    checkpoint: CheckpointSummary,
    reading: ContextExtension,
    tokens_BS: Tensor,
    dtype: torch.dtype,
    keep: bool,
) -> float:
    """Nats per token of the text, queries and keys rotated by `reading` as they are stored."""
    build = BuildOptions(params_dtype=dtype)
    model = OpenedModel(checkpoint, ParallelLayout(), build, keep=keep, rotated_as=reading)
    positions_BS = text_positions(tokens_BS.size(1)).expand_as(tokens_BS)
    with torch.no_grad():
        logits_BSV = logits_of(model.engine, tokens_BS, positions_BS)
    return float(cross_entropy(logits_BSV[:, :-1].flatten(0, 1), tokens_BS[:, 1:].flatten()))
