"""The order of epochs: pure, complete, different each time, and the same for ever."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemo_pi.data.order import EpochOrder, generator, permutation
from nemo_pi.errors import DataError

# No limits on time: a busy machine is no failure.
SLOW_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

KEY = (7, 0, 0)


def test_permutation_never_changes() -> None:
    # Resumed runs rely on these very numbers: a change here reorders every user's data.
    assert permutation(8, (1234, 0, 0, 0, 0)).tolist() == [5, 3, 7, 4, 2, 1, 6, 0]
    assert permutation(10**5, (1234, 0, 0, 3, 1))[[0, 1, -1]].tolist() == [84726, 551, 69082]


def test_each_part_of_the_key_matters() -> None:
    keys = [
        (a, b, c, d, e)
        for a in range(3)
        for b in range(3)
        for c in range(2)
        for d in range(3)
        for e in (0, 1)
    ]
    orders = {tuple(permutation(50, key)) for key in keys}
    assert len(orders) == len(keys)
    assert all(sorted(order) == list(range(50)) for order in orders)


def test_permutation_is_even() -> None:
    # Each number is first equally often: 6,000 draws of 6, expected 1,000 each, deviation about 29.
    firsts = [permutation(6, (0, 0, 0, epoch, 0))[0] for epoch in range(6000)]
    assert np.abs(np.bincount(firsts) - 1000).max() < 5 * 29


@settings(SLOW_MACHINE, max_examples=60)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=12), st.integers(1, 9), st.integers(0, 3))
def test_epoch_covers_documents_and_windows(lengths: list[int], seq_length: int, number: int) -> None:
    total = sum(lengths)
    if total <= seq_length:
        with pytest.raises(DataError, match=f"{seq_length + 1} tokens"):
            EpochOrder(np.array(lengths), seq_length, KEY)
        return
    order = EpochOrder(np.array(lengths), seq_length, KEY)
    epoch = order.epoch(number)
    assert sorted(epoch.documents) == list(range(len(lengths)))
    assert epoch.starts.tolist() == [0, *np.cumsum([lengths[d] for d in epoch.documents])]
    assert sorted(epoch.samples) == list(range((total - 1) // seq_length))
    assert 0 <= total - 1 - len(epoch.samples) * seq_length < seq_length


def test_locate_is_pure_whatever_was_asked_before() -> None:
    lengths = np.arange(1, 40)
    fresh = {i: EpochOrder(lengths, 16, KEY).locate(i)[1] for i in range(0, 200, 7)}
    one = EpochOrder(lengths, 16, KEY)
    for i in np.random.default_rng(0).permutation(list(fresh)):
        assert one.locate(int(i))[1] == fresh[int(i)]
    assert len(one._cache) == 2


def test_epochs_differ() -> None:
    order = EpochOrder(np.full(50, 10), 7, KEY)
    first, second = order.epoch(0), order.epoch(1)
    assert (first.documents != second.documents).any() and (first.samples != second.samples).any()


def test_pickle_carries_no_epochs() -> None:
    order = EpochOrder(np.full(10_000, 10), 7, KEY)
    order.epoch(0)
    copy = pickle.loads(pickle.dumps(order))
    assert not copy._cache and copy.locate(123)[1] == order.locate(123)[1]


def test_every_sample_of_every_epoch_draws_by_its_own_key() -> None:
    order = EpochOrder(np.full(10, 10), 7, KEY)
    keys = [order.draw_key(i) for i in range(4 * order.samples_per_epoch)]
    assert keys[0] == (*KEY, 0, 0, 2) and keys[order.samples_per_epoch + 3] == (*KEY, 1, 3, 2)
    numbers = {tuple(generator(key).randint(0, 10**6, size=4)) for key in keys}
    assert len(numbers) == len(keys)
