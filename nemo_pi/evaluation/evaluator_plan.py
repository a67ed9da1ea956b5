"""Windows and means as other evaluators take them, so that a published perplexity can be compared with like.

All of them slide a window from a document's first token by `stride`; the last window of a document is what
is left of it, and each window scores the labels that the one before has not. A window's labels lie within it:
the first window of a document scores one label less than it has tokens, unless BOS stands before it.

    yarn  github.com/jquesnelle/yarn, eval/perplexity.py: the mean of the windows' means, whatever they score
    pose  github.com/dwzhu-pku/PoSE, src/eval_ppl.py: windows weighted by the tokens that they advance
    hf    huggingface.co/docs/transformers/perplexity: windows weighted by the labels that they score

With `truncate` (their --truncate) documents are cut to one window.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from nemo_pi.errors import ConfigError, DataError
from nemo_pi.evaluation.perplexity import PerplexityResult, mean_to_perplexity
from nemo_pi.evaluation.scorer import Scorer
from nemo_pi.evaluation.tasks.base import Progress, batched
from nemo_pi.rope.positions import text_positions
from nemo_pi.units import plural

WEIGHTS = {
    "yarn": "each window counts once",
    "pose": "windows weighted by the tokens that they advance",
    "hf": "token-weighted",
}
"""Name of the protocol → what its mean is over."""


@dataclass(frozen=True)
class Slide:
    """One window: document[start:end], of which the last `advance` tokens are new."""

    document: int
    """Its number among the documents."""
    start: int
    """Index of its first token."""
    end: int
    """One past its last."""
    advance: int
    """Tokens that no window before it held."""


@dataclass(frozen=True)
class EvaluatorPlan:
    """What is read at each length, and how windows are averaged."""

    documents: list[Tensor]
    """Token ids int64, without BOS."""
    lengths: tuple[int, ...]
    """Window lengths in tokens, BOS included; ascending."""
    stride: int
    """Tokens by which a window advances."""
    name: str
    """One of WEIGHTS."""
    truncate: bool
    """Whether documents are cut to one window."""
    start_ids: tuple[int, ...]
    """What stands before every window; empty for nothing."""

    @classmethod
    def build(
        cls,
        documents: Sequence[Sequence[int]],
        lengths: Sequence[int],
        *,
        stride: int,
        name: str,
        truncate: bool,
        start_ids: tuple[int, ...],
    ) -> EvaluatorPlan:
        """Checks what is to be read.

        Args:
            documents: token ids; every one is read, however short.
            lengths: window lengths in tokens.
            stride: tokens by which windows advance; without effect with `truncate`.
            name: yarn, pose or hf.
            truncate: cut documents to one window.
            start_ids: what stands before every window.

        Raises:
            DataError: no document of two tokens. ConfigError: a length or stride that cannot be.
        """
        tensors = [
            torch.as_tensor(document, dtype=torch.int64) for document in documents if len(document) > 1
        ]
        if not tensors:
            raise DataError(
                "documents",
                required="at least one of two tokens",
                given="none",
                fix="give held-out documents",
            )
        shortest, own = min(lengths), len(start_ids)
        if shortest < 2 + own:
            required = "window lengths of at least two tokens beside what begins them"
            raise ConfigError("lengths", required=required, given=list(lengths), fix="give e.g. [512, 1024]")
        if not truncate and not 1 <= stride <= shortest - own:
            raise ConfigError(
                "stride",
                required=f"from 1 to the shortest window, {shortest - own} tokens",
                given=stride,
                fix=f"lower the stride to {shortest - own}, or leave the short lengths out"
                if stride > 1
                else "give e.g. 256",
            )
        return cls(tensors, tuple(sorted(set(lengths))), stride, name, truncate, start_ids)

    def slides(self, length: int) -> Iterator[Slide]:
        """Windows of one length, document by document."""
        room = length - len(self.start_ids)
        for number, document in enumerate(self.documents):
            size = min(len(document), room) if self.truncate else len(document)
            step = room if self.truncate else self.stride
            before = 0
            for start in range(0, size, step):
                end = min(start + room, size)
                yield Slide(number, start, end, end - before)
                before = end
                if end == size:
                    break

    @property
    def num_tokens(self) -> int:
        """Tokens the model will read, over all lengths."""
        own = len(self.start_ids)
        return sum(own + s.end - s.start for length in self.lengths for s in self.slides(length))

    def num_batches(self, batch_tokens: int) -> int:
        """Calls of the scorer with `batch_tokens` tokens in a batch."""
        return sum(1 for length in self.lengths for _ in self.batches(length, batch_tokens))

    def batches(self, length: int, batch_tokens: int) -> Iterator[list[Slide]]:
        """Neighbouring windows of one size, together as many as a batch holds."""
        for size, alike in groupby(self.slides(length), key=lambda slide: slide.end - slide.start):
            yield from batched(alike, max(1, batch_tokens // (size + len(self.start_ids))))

    @property
    def protocol(self) -> dict[str, Any]:
        """Name the measurement, so that no perplexity stands without it."""
        start = "BOS before every window" if self.start_ids else "no BOS"
        cut = "documents cut to one window" if self.truncate else f"stride {plural(self.stride, 'token')}"
        return {
            "name": self.name,
            "summary": f"windows as in {self.name}'s evaluator: from each document's first token, {cut}; "
            f"{WEIGHTS[self.name]}; {plural(len(self.documents), 'document')}; positions from 0, {start}",
            "stride_tokens": None if self.truncate else self.stride,
            "truncate": self.truncate,
            "num_documents": len(self.documents),
            "bos_ids": list(self.start_ids),
        }


def run_evaluator(
    scorer: Scorer, plan: EvaluatorPlan, *, batch_tokens: int = 8192, progress: Progress | None = None
) -> PerplexityResult:
    """Measures perplexity at each length as the protocol's own evaluator does.

    Args:
        scorer: the model.
        plan: what is read.
        batch_tokens: tokens per batch; at least one window.
        progress: called before the first and after every batch.
    """
    report = progress or (lambda *_: None)
    total, done = plan.num_tokens, 0
    report("perplexity", done, total)
    by_length = {}
    for length in plan.lengths:
        weighted = weights = 0.0
        for slides in plan.batches(length, batch_tokens):
            for slide, losses in zip(slides, _losses(scorer, plan, slides), strict=True):
                weight = {"yarn": 1, "pose": slide.advance, "hf": losses.numel()}[plan.name]
                if losses.numel():  # a document's last token alone has no label
                    weighted, weights = weighted + weight * float(losses.mean()), weights + weight
                done += len(plan.start_ids) + slide.end - slide.start
            report(f"perplexity at {length}", done, total)
        by_length[length] = mean_to_perplexity(weighted / weights if weights else math.nan)
    return PerplexityResult(plan.protocol, by_length)


def _losses(scorer: Scorer, plan: EvaluatorPlan, slides: Sequence[Slide]) -> list[Tensor]:
    """Negative log-likelihoods float64 of the labels that each window scores."""
    own = torch.tensor(plan.start_ids, dtype=torch.int64)
    rows = [torch.cat([own, plan.documents[slide.document][slide.start : slide.end]]) for slide in slides]
    tokens_BS = torch.stack(rows)
    # The last token's label lies beyond the window and is not scored: any id will do.
    labels_BS = tokens_BS.roll(-1, dims=1)
    positions_BS = text_positions(tokens_BS.size(1)).expand_as(tokens_BS)
    nll_BS = -scorer.score(tokens_BS, labels_BS, positions_BS).logprob_BS.cpu().double()[:, :-1]
    found = []
    for nll_S, slide in zip(nll_BS, slides, strict=True):
        # As labels of HF's models are shifted: the first token has none, unless something stands before it.
        count = min(slide.advance, nll_S.numel())
        found.append(nll_S[nll_S.numel() - count :])
    return found
