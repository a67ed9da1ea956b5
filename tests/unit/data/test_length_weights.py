"""Documents by length: how often each is read, against counting one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from math import floor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_pi.data.datasets import build_datasets
from nemo_pi.data.length_weights import LengthWeights, parse_length_weights
from nemo_pi.errors import ConfigError, DataError
from nemo_pi.rope.pose_spec import PoseSpec
from tests.unit.data.test_packing import SLOW_MACHINE

KEY = (3, 0, 0)
LENGTHS = (3, 5, 9, 4, 30, 8, 12, 7, 21, 6, 10, 17, 3, 40)
WEIGHTS = {0: 0.5, 8: 1, 20: 2.5}
Numbered = Callable[[Sequence[int]], str]


def weights_of(value: Any) -> LengthWeights:
    found = parse_length_weights(value)
    assert found is not None
    return found


@SLOW_MACHINE
@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=40),
    st.dictionaries(st.integers(0, 60), st.floats(0, 4), min_size=1, max_size=4),
)
def test_documents_against_a_count_by_hand(lengths: list[int], given: dict[int, float]) -> None:
    if not any({0: 1.0, **given}.values()):
        return
    times = Counter(weights_of(given).chosen(np.array(lengths), KEY).tolist())
    classes: dict[int, list[int]] = {}
    for document, length in enumerate(lengths):
        classes.setdefault(max([bound for bound in given if bound <= length], default=-1), []).append(
            document
        )
    for bound, documents in classes.items():
        weight = given.get(bound, 1.0)
        assert {times[each] for each in documents} <= {floor(weight), floor(weight) + 1}
        extra = (weight - floor(weight)) * len(documents)
        assert abs(sum(times[each] for each in documents) - floor(weight) * len(documents) - extra) <= 0.5


def test_a_class_does_not_depend_on_the_others() -> None:
    lengths = np.array(LENGTHS)
    halves = weights_of({0: 0.5, 8: 0}).chosen(lengths, KEY)
    both = weights_of({0: 0.5, 8: 1, 20: 3}).chosen(lengths, KEY)
    assert halves.tolist() == both[lengths[both] < 8].tolist()
    assert halves.tolist() != weights_of({0: 0.5, 8: 0}).chosen(lengths, (4, 0, 0)).tolist()


def datasets(prefix: str, samples: int = 400, seq_length: int = 6, **data: Any) -> tuple[Any, Any]:
    given = {"data_prefix": [prefix], "splits_string": "7,3,0", "check_token_ids": False, **data}
    pose = data.pop("pose", None)
    train, validation, _ = build_datasets(
        given, seq_length=seq_length, vocab_size=None, seed=3, num_samples=(samples, 5, 0), pose=pose
    )
    return train, validation


@pytest.mark.parametrize("packed", [False, True], ids=["end-to-end", "packed"])
@pytest.mark.parametrize("pose", [None, PoseSpec(24, "contiguous", 2, "zero")], ids=["plain", "pose"])
def test_each_document_is_a_label_as_often_as_its_weight_says(
    packed: bool, pose: PoseSpec | None, numbered: Numbered
) -> None:
    """Over one pass, counted token by token: tokens are unique, so each tells its document."""
    train_lengths = np.array(LENGTHS[:10])
    train, validation = datasets(
        numbered(LENGTHS), pack_documents=packed, length_weights=WEIGHTS, pose=pose, reset_attention_mask=True
    )
    stream = train.parts[0]
    labels: Counter[int] = Counter()
    for number in range(stream.samples_per_epoch):
        sample = stream.sample(number)
        labels.update(sample["labels"][sample["loss_mask"] > 0].tolist())
    starts = np.concatenate([[0], np.cumsum(train_lengths)])
    chosen = Counter(weights_of(WEIGHTS).chosen(train_lengths, KEY).tolist())
    assert {floor(times) for times in chosen.values()} == {1, 2, 3}
    seen = {d: {labels[t] for t in range(starts[d] + 1, starts[d + 1])} for d in range(10)}
    if packed:
        assert seen == {d: {chosen[d]} for d in range(10)}
    else:  # the end of an epoch's stream is left over: at most S tokens
        missing = sum(chosen[d] * (LENGTHS[d] - 1) for d in range(10)) - sum(labels.values())
        assert 0 <= missing <= 6
        assert all(max(counts) == chosen[d] for d, counts in seen.items() if chosen[d])
    _, plain = datasets(numbered(LENGTHS), pack_documents=packed, pose=pose)
    for one, other in zip(validation, plain, strict=True):
        assert one["tokens"].tolist() == other["tokens"].tolist()


def test_blends_keep_their_shares(numbered: Numbered) -> None:
    prefixes = [0.7, numbered(LENGTHS), 0.3, numbered(LENGTHS[::-1])]
    train, _ = datasets("", data_prefix=prefixes, length_weights=WEIGHTS)
    plain, _ = datasets("", data_prefix=prefixes)
    assert [train.locate(i) for i in range(400)] == [plain.locate(i) for i in range(400)]


def test_a_run_made_longer_keeps_its_samples(numbered: Numbered) -> None:
    prefix = numbered(LENGTHS)
    short, long = (datasets(prefix, samples, length_weights=WEIGHTS)[0] for samples in (50, 400))
    for number in range(50):
        assert short[number]["tokens"].tolist() == long[number]["tokens"].tolist()


def test_tokens_by_class() -> None:
    weights = weights_of({"8": 2, 20: 0})
    assert weights.bounds == (0, 8, 20) and weights.weights == (1.0, 2.0, 0.0)
    assert weights.labels() == ["below 8", "8 to 19", "20 or more"]
    assert weights.tokens(np.array([3, 7, 8, 19, 20, 50])).tolist() == [10, 27, 70]


@pytest.mark.parametrize(
    "value",
    [{}, [1], {-1: 1}, {"a": 1}, {4.5: 1}, {8: -1}, {8: "x"}, {8: 101}, {8: float("nan")}, {0: 0}, {8: True}],
)
def test_what_means_nothing_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"model\.data\.length_weights: required"):
        parse_length_weights(value)


def test_a_corpus_of_which_nothing_is_left(numbered: Numbered) -> None:
    with pytest.raises(DataError, match="none of 10 documents"):
        datasets(numbered(LENGTHS), length_weights={0: 0, 1000: 1})
