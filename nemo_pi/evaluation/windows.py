"""Which windows a sliding-window perplexity reads, and which labels each of them scores.

A document of n tokens d[0] … d[n-1] has labels d[1] … d[n-1] (d[0] has no context). The scored span [first,
end) of a document does not depend on the window length; only the context before each label does. For a
window of length L the span is cut into blocks. The first ends at max(first + stride, L + 1), the others are
`stride` labels long, the last may be shorter. The window of the block [a, e) has the L inputs d[e-1-L] …
d[e-2] and the L labels d[e-L] … d[e-1]; its last e - a labels are scored, each with at least L - stride + 1
tokens of context, unless the window begins at the document's first token, where context grows from one token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nemo_pi.errors import ConfigError, DataError
from nemo_pi.units import plural

WHOLE_DOCUMENT = "whole_document"
FULL_CONTEXT = "full_context"
SCORED = (WHOLE_DOCUMENT, FULL_CONTEXT)


@dataclass(frozen=True)
class Span:
    """The labels of one document that are scored, at every window length: document[first:end]."""

    document: int
    """Its number among the documents."""
    first: int
    """Index of the first label, in tokens."""
    end: int
    """One past the last."""

    @property
    def num_labels(self) -> int:
        """How many labels are scored."""
        return self.end - self.first


@dataclass(frozen=True)
class Window:
    """One window: inputs document[start : start + length], and labels one token further."""

    document: int
    """Its number among the documents."""
    start: int
    """Index of its first token in the document."""
    length: int
    """Tokens."""
    num_scored: int
    """How many of its labels count: the last ones."""


def doubling_lengths(original_window: int, target_window: int) -> tuple[int, ...]:
    """Return original_window, twice that, … and target_window: the powers of two where the windows are such.

    Raises:
        ConfigError: a window below 2 tokens, or a target below the original window.
    """
    if original_window < 2:
        raise ConfigError(
            "original_window", required="≥ 2 tokens", given=original_window, fix="give the trained window"
        )
    if target_window < original_window:
        raise ConfigError(
            "target_window",
            required=f"≥ the original window, {original_window} tokens",
            given=target_window,
            fix="give the extended window (for a model that is not extended: the original one)",
        )
    lengths = []
    while original_window < target_window:
        lengths.append(original_window)
        original_window *= 2
    return (*lengths, target_window)


def plan_spans(
    document_lengths: Sequence[int],
    *,
    longest: int,
    stride: int,
    scored: str,
    max_tokens: int | None = None,
    start: int = 1,
) -> list[Span]:
    """Choose what is scored of each document, at most `max_tokens` labels in all.

    Args:
        document_lengths: tokens of each document; each must hold one longest window and one label after it.
        longest: the longest window that will be read, in tokens.
        stride: labels per window after the first, in tokens.
        scored: "whole_document" (Press et al. 2022 and the Position Interpolation paper): every label, those
            at the beginning with what little context there is. "full_context": only labels from longest + 1
            - stride on, which every window length reads with its full context (L - stride + 1 to L tokens).
        max_tokens: shared evenly among the documents, each from its beginning; where that gives a document
            less than the least span (longest window or stride), only as many documents as it suffices for,
            first ones first.
        start: index of the first label that is text; above 1 where several tokens begin every window.

    Raises:
        DataError: no documents, or one that is too short. ConfigError: a budget below one least span.
    """
    _check_documents(document_lengths, longest)
    first, least = (start, longest) if scored == WHOLE_DOCUMENT else (longest + 1 - stride, stride)
    if max_tokens is None:
        return [Span(i, first, length) for i, length in enumerate(document_lengths)]
    if max_tokens < least:
        raise ConfigError(
            "max_tokens",
            required=f"≥ {least} tokens, the least that scored={scored!r} can take of one document",
            given=max_tokens,
            fix="raise max_tokens, or lower the longest length",
        )
    num_documents = min(len(document_lengths), max_tokens // least)
    spans = []
    for i, length in enumerate(document_lengths[:num_documents]):
        share = max_tokens // (num_documents - i)  # what a short document leaves goes to the later ones
        spans.append(Span(i, first, min(length, first + share)))
        max_tokens -= spans[-1].num_labels
    return spans


def plan_windows(span: Span, length: int, stride: int) -> Iterator[Window]:
    """Cut a span into windows of `length` that score each of its labels exactly once."""
    block, end = span.first, max(span.first + stride, length + 1)
    while block < span.end:
        end = min(end, span.end)
        yield Window(span.document, end - 1 - length, length, end - block)
        block, end = end, end + stride


def _check_documents(document_lengths: Sequence[int], longest: int) -> None:
    if not document_lengths:
        raise DataError(
            "documents", required="at least one document", given="none", fix="give held-out documents"
        )
    for i, length in enumerate(document_lengths):
        if length < longest + 1:
            raise DataError(
                f"documents[{i}]",
                required=f"≥ {longest + 1} tokens (the longest window and one label after it)",
                given=plural(length, "token"),
                fix="leave short documents out, or evaluate up to a shorter length",
            )
