"""Passkey retrieval over length × depth (arXiv 2306.15595, §3.3.1).

A trial succeeds if greedy decoding of the prompt gives the answer's tokens. That is read off one
teacher-forced pass over prompt and answer: greedy decoding emits, at each step, the arg max given the prompt
and what it has emitted. If every answer token is the arg max given the prompt and the answer before it, then
by induction decoding has emitted just these tokens at each step, and emits the next. Conversely, if decoding
emits the answer, it has at each step seen what teacher forcing sees, so each token is the arg max there. One
pass replaces a prefill and a decode per trial, and needs no cache. Under dynamic NTK and LongRoPE the pass
reads everything at the frequencies of the whole document, decoding at those of what it has so far: there
`generate` asks what a user would see. (Digits spelled by other tokens than the tokenizer's own count as a
failure in both.)

Shapes: B documents in a batch, S tokens in a document less one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from nemo_pi.errors import ConfigError
from nemo_pi.evaluation.generation import GenerationRequest
from nemo_pi.evaluation.passkey_text import PasskeyDocument, TextTokenizer, passkey_document
from nemo_pi.evaluation.scorer import Scorer
from nemo_pi.evaluation.tasks.base import Progress, TaskResult, batched
from nemo_pi.rope.positions import text_positions
from nemo_pi.units import plural

MOST_ANSWER_TOKENS = 7
"""Of an answer: a mark where the word begins, the space and five digits, each a token of its own."""


@dataclass(frozen=True)
class PasskeyGrid:
    """Passkey retrieval over length × depth."""

    lengths: tuple[int, ...]
    """Tokens of the documents, ascending."""
    depths: tuple[float, ...]
    """Where the passkey lies, ascending from 0 (beginning) to 1 (end)."""
    num_trials: int
    """Documents per cell."""
    successes: tuple[tuple[int, ...], ...]
    """Answers retrieved, by length, then depth."""

    def rate(self, length: int, depth: float | None = None) -> float:
        """Return the success rate at a length: of one depth, or of all depths together."""
        counts = self.successes[self.lengths.index(length)]
        if depth is None:
            return sum(counts) / (len(counts) * self.num_trials)
        return counts[self.depths.index(depth)] / self.num_trials

    def k_max(self, threshold: float = 0.2) -> int:
        """Return the largest tested k such that every tested k' ≤ k succeeds in ≥ `threshold` of its trials.

        0 where already the shortest fails (arXiv 2306.15595, §3.3.1). In the paper k is how far the passkey
        lies from the end of the input, so only the shallowest depth counts here: near the beginning, that
        distance is the length but for the instruction. A mean over depths would credit a model with a long
        window for finding passkeys that lie just before the question.
        """
        k_max = 0
        for length in self.lengths:
            if self.rate(length, self.depths[0]) < threshold:
                break
            k_max = length
        return k_max


@dataclass(frozen=True)
class PasskeyResult(TaskResult):
    """What one model retrieved."""

    grid: PasskeyGrid
    """Counts over length × depth."""

    @property
    def k_max(self) -> int:
        """`PasskeyGrid.k_max` in tokens, at the paper's threshold."""
        return self.grid.k_max()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types, k_max among them for other programs."""
        grid = {
            "lengths": list(self.grid.lengths),
            "depths": list(self.grid.depths),
            "num_trials": self.grid.num_trials,
            "successes": [list(counts) for counts in self.grid.successes],
        }
        return {"protocol": self.protocol, "grid": grid, "k_max": self.k_max}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> PasskeyResult:
        """Read what `to_json` returned."""
        grid: dict[str, Any] = {**content["grid"]}
        grid |= {"lengths": tuple(grid["lengths"]), "depths": tuple(grid["depths"])}
        grid["successes"] = tuple(tuple(counts) for counts in grid["successes"])
        return cls(content["protocol"], PasskeyGrid(**grid))


@dataclass(frozen=True)
class PasskeyPlan:
    """Which documents are tried; `num_tokens` says what it costs before anything is computed."""

    lengths: tuple[int, ...]
    """Tokens of the documents, answer included; kept ascending, each once."""
    depths: tuple[float, ...]
    """Where the passkey lies, 0 beginning to 1 end; kept ascending, each once."""
    num_trials: int
    """Documents of each length and depth."""
    seed: int
    """Of keys."""
    bos: bool = False
    """Whether documents begin with the tokenizer's beginning-of-text token."""
    generate: bool = False
    """Whether answers are generated token by token instead of read off one pass."""

    def __post_init__(self) -> None:
        if not self.lengths or not self.depths or self.num_trials < 1:
            raise ConfigError(
                "passkey",
                required="at least one length, one depth and one trial",
                given=f"lengths {self.lengths}, depths {self.depths}, {self.num_trials} trials",
                fix="give e.g. lengths (512, 1024), depths (0, 0.5, 1) and 10 trials",
            )
        object.__setattr__(self, "lengths", tuple(sorted(set(self.lengths))))
        object.__setattr__(self, "depths", tuple(sorted(set(self.depths))))

    def documents(self, tokenizer: TextTokenizer, length: int) -> Iterator[tuple[int, PasskeyDocument]]:
        """Yield (index of the depth, document) for every trial at a length, each with a key of its own."""
        for i, depth in enumerate(self.depths):
            for trial in range(i * self.num_trials, (i + 1) * self.num_trials):
                yield i, passkey_document(tokenizer, length, trial, seed=self.seed, depth=depth, bos=self.bos)

    def num_batches(self, batch_tokens: int) -> int:
        """Return the calls of the scorer with `batch_tokens` tokens in a batch."""
        documents = len(self.depths) * self.num_trials
        return sum(math.ceil(documents / max(1, batch_tokens // length)) for length in self.lengths)

    @property
    def num_tokens(self) -> int:
        """Tokens the model will read."""
        return sum(self.lengths) * len(self.depths) * self.num_trials

    @property
    def num_new_tokens(self) -> int:
        """Tokens the model will generate at most."""
        return MOST_ANSWER_TOKENS * self.num_documents if self.generate else 0

    @property
    def num_documents(self) -> int:
        """Documents of all lengths and depths."""
        return len(self.lengths) * len(self.depths) * self.num_trials

    @property
    def protocol(self) -> dict[str, Any]:
        """Name the measurement, so that no rate stands without it."""
        start = "after BOS" if self.bos else "no BOS"
        trials = plural(self.num_trials, "trial")
        protocol = {
            "name": "passkey",
            "summary": f"five random digits, exact match under greedy decoding, {trials} at "
            f"each length and depth, lengths include the answer, {start}; k_max: the longest tested length "
            f"such that up to it ≥ 20% of the trials at depth {self.depths[0]:g} succeed at every length",
            "lengths": list(self.lengths),
            "depths": list(self.depths),
            "num_trials": self.num_trials,
            "seed": self.seed,
            "bos": self.bos,
        }
        if self.generate:
            protocol |= {"summary": f"generated token by token: {protocol['summary']}", "generate": True}
        return protocol


def passkey_retrieval(
    scorer: Scorer,
    tokenizer: TextTokenizer,
    plan: PasskeyPlan,
    *,
    batch_tokens: int = 8192,
    progress: Progress | None = None,
) -> PasskeyGrid:
    """Count the passkeys a model retrieves in each cell of length × depth.

    Args:
        scorer: the model.
        tokenizer: its tokenizer.
        plan: lengths, depths, trials and seed.
        batch_tokens: tokens per batch; documents of one length go together, at least one.
        progress: called before the first and after every batch.

    Raises:
        DataError: a length that is too short for a passkey document with this tokenizer.
        ConfigError: a depth outside [0, 1].
    """
    report = progress or (lambda *_: None)
    done, successes, total = 0, [], plan.num_tokens + plan.num_new_tokens
    answered = partial(generates, batch_tokens=batch_tokens) if plan.generate else retrieves
    report("passkey", done, total)
    for length in plan.lengths:
        counts = [0] * len(plan.depths)
        for batch in batched(plan.documents(tokenizer, length), max(1, batch_tokens // length)):
            retrieved = answered(scorer, [document for _, document in batch])
            for (depth_index, _), success in zip(batch, retrieved, strict=True):
                counts[depth_index] += success
            done += (length + plan.num_new_tokens // plan.num_documents) * len(batch)
            report(f"passkey at {length}", done, total)
        successes.append(tuple(counts))
    return PasskeyGrid(plan.lengths, plan.depths, plan.num_trials, tuple(successes))


def generates(
    scorer: Scorer, documents: Sequence[PasskeyDocument], *, batch_tokens: int = 8192
) -> list[bool]:
    """Say of each document whether the model, left to generate greedily, answers it."""
    answered: dict[int, bool] = {}
    # By tokens of the answer: as many as the longest one's would take the others beyond the window.
    for num_new in sorted({document.num_answer_tokens for document in documents}):
        numbers = [i for i, document in enumerate(documents) if document.num_answer_tokens == num_new]
        prompts = [documents[i].token_ids[:-num_new] for i in numbers]
        texts = scorer.generate(prompts, GenerationRequest(num_new, batch_tokens=batch_tokens))
        for i, text in zip(numbers, texts, strict=True):
            answered[i] = text.token_ids == documents[i].token_ids[-num_new:]
    return [answered[i] for i in range(len(documents))]


def retrieves(scorer: Scorer, documents: Sequence[PasskeyDocument]) -> list[bool]:
    """Say of each document, all of one length, whether greedy decoding would answer it."""
    ids = torch.tensor([document.token_ids for document in documents], dtype=torch.int64)
    tokens_BS, labels_BS = ids[:, :-1], ids[:, 1:]
    positions_BS = text_positions(tokens_BS.size(1)).expand_as(tokens_BS)
    is_greedy_BS = scorer.score(tokens_BS, labels_BS, positions_BS).is_greedy_BS.cpu()
    pairs = zip(is_greedy_BS, documents, strict=True)
    return [bool(is_greedy_S[-document.num_answer_tokens :].all()) for is_greedy_S, document in pairs]
