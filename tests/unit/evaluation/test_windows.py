from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_pi.errors import ConfigError, DataError
from nemo_pi.evaluation.windows import (
    FULL_CONTEXT,
    WHOLE_DOCUMENT,
    Span,
    Window,
    doubling_lengths,
    plan_spans,
    plan_windows,
)


@pytest.mark.parametrize(
    ("original", "target", "expected"),
    [(512, 4096, (512, 1024, 2048, 4096)), (512, 512, (512,)), (2048, 5000, (2048, 4096, 5000))],
)
def test_lengths_double_up_to_the_target(original: int, target: int, expected: tuple[int, ...]) -> None:
    assert doubling_lengths(original, target) == expected


@pytest.mark.parametrize(("original", "target"), [(512, 256), (0, 512), (1, 8)])
def test_impossible_windows_are_refused(original: int, target: int) -> None:
    with pytest.raises(ConfigError):
        doubling_lengths(original, target)


def test_a_small_plan_literally() -> None:
    # 12 tokens, windows of 4, stride 3: the first scores labels 1-4, the next two 5-7 and 8-10, the last 11.
    assert list(plan_windows(Span(0, 1, 12), length=4, stride=3)) == [
        Window(0, 0, 4, 4),
        Window(0, 3, 4, 3),
        Window(0, 6, 4, 3),
        Window(0, 7, 4, 1),
    ]
    # The same labels 8-11 for every length where all are to have their full context; 7 is the longest window.
    span = plan_spans([12], longest=7, stride=3, scored=FULL_CONTEXT)[0]
    assert span == Span(0, 5, 12)
    assert list(plan_windows(span, length=4, stride=3)) == [
        Window(0, 3, 4, 3),
        Window(0, 6, 4, 3),
        Window(0, 7, 4, 1),
    ]
    assert list(plan_windows(span, length=7, stride=3)) == [
        Window(0, 0, 7, 3),
        Window(0, 3, 7, 3),
        Window(0, 4, 7, 1),
    ]


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(2, 30), min_size=1, max_size=4),
    extra=st.lists(st.integers(1, 60), min_size=1, max_size=3),
    stride=st.integers(1, 30),
    scored=st.sampled_from([WHOLE_DOCUMENT, FULL_CONTEXT]),
)
def test_every_label_is_scored_once_at_every_length_with_the_promised_context(
    lengths: list[int], extra: list[int], stride: int, scored: str
) -> None:
    stride = min(stride, *lengths)
    sizes = [max(lengths) + more for more in extra]
    spans = plan_spans(sizes, longest=max(lengths), stride=stride, scored=scored)
    for length in lengths:
        for size, span in zip(sizes, spans, strict=True):
            seen = []
            for window in plan_windows(span, length, stride):
                assert window.length == length and window.start >= 0
                end = window.start + length + 1
                assert end <= size
                labels = range(end - window.num_scored, end)
                seen.extend(labels)
                if scored == FULL_CONTEXT or window.start > 0:
                    assert min(labels) - window.start >= length - stride + 1
            assert seen == list(range(1 if scored == WHOLE_DOCUMENT else max(lengths) + 1 - stride, size))


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(21, 80), min_size=1, max_size=5),
    max_tokens=st.integers(20, 300),
    scored=st.sampled_from([WHOLE_DOCUMENT, FULL_CONTEXT]),
)
def test_a_budget_is_kept_and_used(sizes: list[int], max_tokens: int, scored: str) -> None:
    spans = plan_spans(sizes, longest=20, stride=4, scored=scored, max_tokens=max_tokens)
    everything = plan_spans(sizes, longest=20, stride=4, scored=scored)
    used, least = sum(span.num_labels for span in spans), 20 if scored == WHOLE_DOCUMENT else 4
    assert used <= max_tokens
    assert all(span.num_labels >= least for span in spans)
    assert [span.document for span in spans] == list(range(min(len(sizes), max_tokens // least)))
    assert all(
        part.first == whole.first and part.end <= whole.end
        for part, whole in zip(spans, everything, strict=False)
    )
    if spans[-1].end < sizes[spans[-1].document]:
        assert used == max_tokens


def test_a_budget_is_shared_evenly() -> None:
    spans = plan_spans([1000, 31, 1000], longest=20, stride=4, scored=WHOLE_DOCUMENT, max_tokens=300)
    assert [span.num_labels for span in spans] == [100, 30, 170]


def test_bad_documents_and_budgets_are_refused() -> None:
    with pytest.raises(DataError, match="at least one document"):
        plan_spans([], longest=20, stride=4, scored=WHOLE_DOCUMENT)
    with pytest.raises(DataError, match=r"documents\[1\].*≥ 21.*20 tokens"):
        plan_spans([21, 20], longest=20, stride=4, scored=FULL_CONTEXT)
    with pytest.raises(ConfigError, match="max_tokens"):
        plan_spans([100], longest=20, stride=4, scored=WHOLE_DOCUMENT, max_tokens=19)
