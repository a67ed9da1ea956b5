"""Packed rows: every prediction once, nothing of another document, nothing scored in padding."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemo_pi.data.indexed import open_indexed
from nemo_pi.data.order import generator
from nemo_pi.data.packing import PackedDataset, best_fit_decreasing, chunked
from nemo_pi.data.pose_sampler import draw_chunks
from nemo_pi.data.position_ids import PlainPositions, PosePositions
from nemo_pi.data.samples import SampleRules
from nemo_pi.errors import DataError
from nemo_pi.rope.pose_spec import PoseSpec

# No limits on time: a busy machine is no failure.
SLOW_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

KEY = (3, 0, 0)
PACKED = SampleRules(PlainPositions(reset=True))
Numbered = Callable[[Sequence[int]], str]


def packed(prefix: str, seq_length: int, rules: SampleRules = PACKED) -> PackedDataset:
    indexed = open_indexed(prefix)
    every = (0, len(indexed.document_indices) - 1)
    return PackedDataset(indexed, every, seq_length=seq_length, key=KEY, rules=rules)


def naive_best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows of best-fit decreasing, each by looking at every row."""
    rows: list[list[int]] = []
    for length in sorted(lengths, reverse=True):
        holding = [row for row in rows if sum(row) + length <= capacity]
        if holding:
            max(holding, key=sum).append(length)
        else:
            rows.append([length])
    return rows


@SLOW_MACHINE
@given(st.lists(st.integers(1, 20), min_size=1, max_size=60))
def test_rows_against_a_naive_best_fit(lengths: list[int]) -> None:
    falling = np.sort(np.array(lengths))[::-1]
    rows = best_fit_decreasing(falling, 20)
    assert sorted(set(rows)) == list(range(max(rows) + 1))
    ours = [falling[rows == row].tolist() for row in range(max(rows) + 1)]
    # Which of several equally full rows is taken is left open: loads and their number are not.
    naive = naive_best_fit(lengths, 20)
    assert sorted(map(sum, ours)) == sorted(map(sum, naive))
    assert sorted(itertools.chain(*ours)) == sorted(lengths) and max(map(sum, ours)) <= 20


def test_rows_are_nearly_full() -> None:
    """10,000 documents of 1 to 512 tokens leave less than 1% of their rows free."""
    lengths = np.random.default_rng(0).integers(1, 513, 10_000)
    rows = int(best_fit_decreasing(np.sort(lengths)[::-1], 512).max()) + 1
    assert lengths.sum() > 0.99 * rows * 512


@SLOW_MACHINE
@given(st.lists(st.integers(0, 40), min_size=1, max_size=20), st.integers(1, 12))
def test_cut_against_a_loop(lengths: list[int], seq_length: int) -> None:
    naive = [
        (document, skipped, min(seq_length, length - 1 - skipped))
        for document, length in enumerate(lengths)
        for skipped in range(0, length - 1, seq_length)
    ]
    chunks = chunked(np.array(lengths), seq_length)
    ours = zip(chunks.documents_P, chunks.skipped_P, chunks.lengths_P, strict=True)
    assert [tuple(map(int, chunk)) for chunk in ours] == naive


@settings(SLOW_MACHINE, max_examples=50)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=12), st.integers(1, 12), st.integers(0, 2))
def test_every_prediction_of_an_epoch_once_and_nothing_else(
    numbered: Numbered, lengths: list[int], seq_length: int, epoch: int
) -> None:
    prefix = numbered(lengths)
    if max(lengths) < 2:
        with pytest.raises(DataError):
            packed(prefix, seq_length)
        return
    ours = packed(prefix, seq_length)
    starts = np.cumsum([0, *lengths])
    wanted = [(int(token), int(token) + 1) for a, b in pairwise(starts) for token in range(a, b - 1)]
    scored = []
    for i in range(epoch * len(ours), (epoch + 1) * len(ours)):
        sample = ours[i]
        assert sample["tokens"].numel() == seq_length
        kept = sample["loss_mask"].bool()
        pairs = zip(sample["tokens"][kept].tolist(), sample["labels"][kept].tolist(), strict=True)
        scored += list(pairs)
        boundaries = sample["cu_seqlens"].unique().tolist()
        assert boundaries[0] == 0 and boundaries[-1] == seq_length
        for a, b in pairwise(boundaries):
            assert sample["position_ids"][a:b].tolist() == list(range(b - a))
            part = sample["tokens"][a:b]
            # Tokens are numbered in file order: those of one stretch of one document follow each other.
            if kept[a]:
                assert kept[a:b].all() and (part.diff() == 1).all()
                assert np.searchsorted(starts, int(part[0]), "right") == np.searchsorted(
                    starts, int(sample["labels"][b - 1]), "right"
                ), "two documents under one boundary"
            else:
                assert b == seq_length and not kept[a:b].any(), "padding is one stretch at the end"
    assert sorted(scored) == wanted


def test_a_row_by_hand(numbered: Numbered) -> None:
    ours = packed(numbered([4, 3]), 8, SampleRules(PlainPositions(reset=True), eod_id=9))
    assert len(ours) == 1
    sample = ours[0]
    assert sample["tokens"].tolist() == [0, 1, 2, 4, 5, 9, 9, 9]
    assert sample["labels"].tolist() == [1, 2, 3, 5, 6, 9, 9, 9]
    assert sample["position_ids"].tolist() == [0, 1, 2, 0, 1, 0, 1, 2]
    assert sample["loss_mask"].tolist() == [1, 1, 1, 1, 1, 0, 0, 0]
    assert sample["cu_seqlens"].tolist() == [0, 3, 5, 8, 8, 8, 8, 8, 8]
    assert {name: value.dtype for name, value in sample.items()} == {
        "tokens": torch.int64,
        "labels": torch.int64,
        "loss_mask": torch.float32,
        "position_ids": torch.int64,
        "cu_seqlens": torch.int32,
    }


def test_end_of_document_may_be_left_out_of_the_loss(numbered: Numbered) -> None:
    ours = packed(numbered([4]), 4, SampleRules(PlainPositions(reset=True), eod_mask_loss=True, eod_id=1))
    assert ours[0]["loss_mask"].tolist() == [1, 0, 1, 0]


def test_epochs_differ_and_samples_are_pure(numbered: Numbered) -> None:
    prefix = numbered([9] * 40)
    ours = packed(prefix, 20)
    firsts = [ours[i]["tokens"].tolist() for i in range(3 * len(ours))]
    assert firsts[: len(ours)] != firsts[len(ours) : 2 * len(ours)] != firsts[2 * len(ours) :]
    again = pickle.loads(pickle.dumps(ours))
    assert not again.order._cache, "processes compute their own epochs"
    for i in reversed(range(3 * len(ours))):
        assert again.sample(i)["tokens"].tolist() == firsts[i]


def test_documents_skip_through_the_target_by_themselves(numbered: Numbered) -> None:
    spec = PoseSpec(1000, "paper", 2, "zero")
    ours = packed(numbered([30, 25, 12, 50, 7]), 64, SampleRules(PosePositions(spec, reset=True)))
    plain = packed(numbered([30, 25, 12, 50, 7]), 64)
    for i in range(4 * len(ours)):
        sample, without = ours[i], plain[i]
        assert all(torch.equal(sample[key], without[key]) for key in sample if key != "position_ids")
        random = generator(ours.order.draw_key(i))
        for a, b in pairwise(sample["cu_seqlens"].unique().tolist()):
            chunks = draw_chunks(spec, b - a, random)
            assert sample["position_ids"][a:b].tolist() == chunks.positions().tolist()
            assert len(chunks.lengths_N) == min(2, b - a)
    assert int(max(ours[i]["position_ids"].max() for i in range(40))) > 700


def test_first_rows_never_change(numbered: Numbered) -> None:
    """First tokens of the first rows, as they were when packing was first released."""
    ours = packed(numbered([5, 9, 3, 14, 7, 30, 2, 11]), 16)
    assert [int(ours[i]["tokens"][0]) for i in range(8)] == [38, 54, 70, 17, 5, 54, 17, 38]
