"""How long a model takes to read: measured once on short texts, then used to cost what is planned.

What is planned is costed by running its tasks on a scorer that computes nothing and writes down the sizes of
the batches it is given: whatever a task does, its cost is that of its own calls.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nemo_pi.evaluation.evaluate import evaluate
from nemo_pi.evaluation.generation import Generated, GenerationRequest
from nemo_pi.evaluation.passkey_plan import PasskeyPlan
from nemo_pi.evaluation.scorer import Scorer, TokenScores, score_texts
from nemo_pi.evaluation.tasks.base import Task, TaskContext
from nemo_pi.evaluation.tasks.passkey import Passkey

Clock = Callable[[], float]
FIRST_ROW, LEAST_ROW = 256, 64
"""Tokens of the row that warms up, and of the shortest row whose speed says anything."""


@dataclass(frozen=True)
class Speed:
    """Seconds of a batch: tokens × (per token + per token and token before it × length)."""

    per_token: float
    """Seconds that a token takes by itself."""
    per_pair: float
    """Seconds more for each token of its text: attention grows with the square of the length."""

    @classmethod
    def through(cls, lengths: tuple[int, int], rates: Sequence[float], pair_share: float = 0.0) -> Speed:
        """The speed that seconds a token mean, measured in texts of two lengths, the shorter first.

        Where the longer text was no slower, what else the machine did was more than attention: then a pair is
        taken to cost `pair_share` times what a token does.
        """
        if rates[1] <= rates[0]:
            per_token = sum(rates) / sum(1 + pair_share * length for length in lengths)
            return cls(max(1e-9, per_token), pair_share * per_token)
        per_pair = (rates[1] - rates[0]) / (lengths[1] - lengths[0])
        return cls(max(1e-9, rates[0] - per_pair * lengths[0]), per_pair)

    def seconds(self, calls: Sequence[tuple[int, int]]) -> float:
        """Of batches of (rows, tokens of a row)."""
        return sum(rows * length * (self.per_token + self.per_pair * length) for rows, length in calls)

    def tokens_per_second(self, length: int) -> float:
        """In texts of this length."""
        return 1 / (self.per_token + self.per_pair * length)


def measure_speed(
    scorer: Scorer,
    text_S: Tensor,
    lengths: tuple[int, int],
    batch_tokens: int,
    most_seconds: float = math.inf,
    pair_share: float = 0.0,
    clock: Clock = time.perf_counter,
) -> Speed:
    """Times one batch of each of two lengths, after a row that warms up.

    Args:
        scorer: the model.
        text_S: token ids int64, at least as long as the longer.
        lengths: tokens of a row, the shorter first; where they are alike, attention is taken to cost nothing.
        batch_tokens: tokens of a batch, or of a row where it is longer.
        most_seconds: where two batches would take longer, going by the first row, they and the lengths are
            halved until they would not, though never below LEAST_ROW tokens.
        pair_share: of a pair in what a token costs, by the operations of each (see `Speed.through`).
        clock: what time it is, in seconds.
    """

    def seconds_a_token(length: int, rows: int) -> float:
        started = clock()
        score_texts(scorer, text_S[: length + 1].expand(rows, -1).contiguous())
        return (clock() - started) / (rows * length)

    first = min(lengths[0], FIRST_ROW)
    expected = seconds_a_token(first, 1)
    while lengths[0] >= 2 * LEAST_ROW and expected * 2 * max(batch_tokens, lengths[1]) > most_seconds:
        lengths, batch_tokens = (lengths[0] // 2, lengths[1] // 2), batch_tokens // 2
    rates = [seconds_a_token(length, max(1, batch_tokens // length)) for length in lengths]
    if lengths[0] == lengths[1]:
        return Speed(max(rates), 0.0)
    return Speed.through(lengths, rates, pair_share)


class Tally:
    """A scorer that only writes down what it is asked."""

    name = "tally"

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []
        """(rows, tokens of a row) of each batch."""

    def score(self, tokens_BS: Tensor, labels_BS: Tensor, position_ids_BS: Tensor) -> TokenScores:
        """Zeros."""
        self.calls.append((tokens_BS.size(0), tokens_BS.size(1)))
        return TokenScores(torch.zeros(tokens_BS.shape), torch.zeros(tokens_BS.shape, dtype=torch.bool))

    def generate(self, prompts: Sequence[Sequence[int]], request: GenerationRequest) -> list[Generated]:
        """Nothing that advice runs generates: without a cache each token would be a pass of its own."""
        raise NotImplementedError("advice reads answers off one pass")


def calls_of(tasks: Sequence[Task[Any, Any]], context: TaskContext) -> list[tuple[int, int]]:
    """(rows, tokens of a row) of every batch that these tasks will read."""
    tally = Tally()
    for task in tasks:
        work = task.work(context) if isinstance(task, Passkey) else None
        if isinstance(work, PasskeyPlan):  # knows its calls without building documents, which takes long
            tally.calls += work.calls(context.batch_tokens)
        else:
            evaluate(tally, [task], context)
    return tally.calls
