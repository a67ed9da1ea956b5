"""Which windows perplexity reads and which labels it scores: the same at every length, each once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from nemo_pi.errors import ConfigError
from nemo_pi.evaluation.windows import SCORED, WHOLE_DOCUMENT, Span, Window, plan_spans, plan_windows
from nemo_pi.units import plural


@dataclass(frozen=True)
class PerplexityPlan:
    """Checked documents, spans and windows; `num_tokens` says what it costs before anything is computed."""

    documents: list[Tensor]
    """Token ids int64, each with what begins every window where that is asked for."""
    spans: list[Span]
    """The labels that are scored, at every length."""
    lengths: tuple[int, ...]
    """Window lengths in tokens, ascending."""
    stride: int
    """Labels of a window after a document's first, in tokens."""
    scored: str
    """"whole_document" or "full_context"."""
    start_ids: tuple[int, ...]
    """What every window begins with, in place of its own first tokens; empty: nothing."""

    @classmethod
    def build(
        cls,
        documents: Sequence[Sequence[int]],
        lengths: Sequence[int],
        *,
        stride: int = 256,
        scored: str = WHOLE_DOCUMENT,
        max_tokens: int | None = None,
        bos_id: int | Sequence[int] | None = None,
    ) -> PerplexityPlan:
        """Plans the windows of `plan_windows`; every length scores the same labels, each once.

        Args:
            documents: token ids, each document longer than the longest length.
            lengths: window lengths in tokens; duplicates are dropped.
            stride: labels scored by each window after a document's first, in tokens; at most the shortest
                length.
            scored: "whole_document" or "full_context", see `plan_spans`.
            max_tokens: a limit on the labels scored at each length; None scores all. The cost at length L is
                about max_tokens * L / stride tokens read.
            bos_id: where given, every window begins with this token, or these (in place of the first tokens
                of its context), and a document's first token is scored too. None adds nothing.

        Raises:
            DataError: no documents or one too short.
            ConfigError: a length, stride, budget or protocol that cannot be.
        """
        starts = () if bos_id is None else (bos_id,) if isinstance(bos_id, int) else tuple(bos_id)
        _check(lengths, stride, scored, len(starts))
        begin = torch.tensor(starts, dtype=torch.int64)
        tensors = [torch.cat([begin, torch.as_tensor(text, dtype=torch.int64)]) for text in documents]
        spans = plan_spans(
            [len(tensor) for tensor in tensors],
            longest=max(lengths),
            stride=stride,
            scored=scored,
            max_tokens=max_tokens,
            start=max(1, len(starts)),
        )
        return cls(tensors, spans, tuple(sorted(set(lengths))), stride, scored, starts)

    def windows(self, length: int) -> list[Window]:
        """Return every window of this length, document by document."""
        return [window for span in self.spans for window in plan_windows(span, length, self.stride)]

    @property
    def num_tokens(self) -> int:
        """Tokens the model will read, over all lengths."""
        return sum(length * len(self.windows(length)) for length in self.lengths)

    def num_batches(self, batch_tokens: int) -> int:
        """Return the calls of the scorer with `batch_tokens` tokens in a batch."""
        return sum(
            math.ceil(len(self.windows(length)) / max(1, batch_tokens // length)) for length in self.lengths
        )

    @property
    def num_scored(self) -> int:
        """Labels scored at each length."""
        return sum(span.num_labels for span in self.spans)

    @property
    def protocol(self) -> dict[str, Any]:
        """Name the measurement, so that no perplexity stands without it."""
        count = len(self.start_ids)
        bos = "BOS" if count == 1 else f"{count} beginning-of-text tokens"
        start = f"{bos} before every window" if count else "no BOS"
        scored, documents = plural(self.num_scored, "token"), plural(len(self.spans), "document")
        return {
            "name": "sliding window",
            "summary": f"sliding window within each document, stride {plural(self.stride, 'token')}, "
            f"token-weighted, each token scored once: {scored} of {documents} "
            f"({self.scored}), the same at every length; positions from 0, {start}",
            "stride_tokens": self.stride,
            "scored": self.scored,
            "num_documents": len(self.spans),
            "num_scored_tokens": self.num_scored,
            "tokens_sha256": self._fingerprint(),
            "bos_id": self.start_ids[0] if count == 1 else list(self.start_ids) or None,
        }

    def _fingerprint(self) -> str:
        """Of the ids that are scored: perplexities of different tokens do not compare."""
        digest = sha256()
        for span in self.spans:
            digest.update(self.documents[span.document][span.first : span.end].numpy().tobytes())
        return digest.hexdigest()[:16]


def _check(lengths: Sequence[int], stride: int, scored: str, num_starts: int) -> None:
    if scored not in SCORED:
        raise ConfigError(
            "scored", required=f"one of {', '.join(SCORED)}", given=scored, fix="correct the name"
        )
    if not lengths or min(lengths) < 2:
        raise ConfigError(
            "lengths",
            required="window lengths of ≥ 2 tokens",
            given=list(lengths),
            fix="give e.g. [512, 1024]",
        )
    most = min(lengths) - max(0, num_starts - 1)
    if not 1 <= stride <= most:
        beside = f" less {num_starts - 1} that begin it" if num_starts > 1 else ""
        raise ConfigError(
            "stride",
            required=f"from 1 to the shortest length, {min(lengths)} tokens{beside}",
            given=stride,
            fix=(f"lower the stride to {most}, or " if most >= 1 else "") + "leave the short lengths out",
        )
