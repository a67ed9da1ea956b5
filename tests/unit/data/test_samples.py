"""Samples: against naive concatenation of what megatron-core reads, and each token of an epoch once."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from megatron.core.datasets.gpt_dataset import _get_ltor_masks_and_position_ids
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder

from nemo_pi.data.indexed import open_indexed
from nemo_pi.data.order import generator, permutation
from nemo_pi.data.pose_sampler import draw_chunks
from nemo_pi.data.position_ids import PlainPositions, PosePositions
from nemo_pi.data.samples import Sample, SampleDataset, SampleRules, make_sample
from nemo_pi.errors import DataError
from nemo_pi.rope.pose_spec import PoseSpec

# No limits on time: a busy machine is no failure.
SLOW_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

KEY = (3, 0, 0)
Numbered = Callable[[Sequence[int]], str]


def dataset(
    prefix: str, seq_length: int, rules: SampleRules | None = None, key: tuple[int, ...] = KEY
) -> SampleDataset:
    indexed = open_indexed(prefix)
    every = (0, len(indexed.document_indices) - 1)
    return SampleDataset(indexed, every, seq_length=seq_length, key=key, rules=rules or SampleRules())


def naive_window(prefix: str, seq_length: int, index: int) -> tuple[list[int], list[int]]:
    """The window and its boundaries by plain lists, from megatron-core's reading."""
    indexed = IndexedDataset(prefix)
    total = int(sum(indexed.sequence_lengths))
    epoch, place = divmod(index, (total - 1) // seq_length)
    stream: list[int] = []
    begins: list[int] = []
    for document in permutation(len(indexed), (*KEY, epoch, 0)):
        begins.append(len(stream))
        stream += [int(token) for token in indexed[int(document)]]
    start = int(permutation((total - 1) // seq_length, (*KEY, epoch, 1))[place]) * seq_length
    inner = sorted({begin - start for begin in begins if start < begin < start + seq_length})
    return stream[start : start + seq_length + 1], [0, *inner, seq_length]


@settings(SLOW_MACHINE, max_examples=60)
@given(st.lists(st.integers(0, 15), min_size=1, max_size=10), st.integers(1, 12), st.data())
def test_window_against_naive_loop(
    numbered: Numbered, lengths: list[int], seq_length: int, data: st.DataObject
) -> None:
    if sum(lengths) <= seq_length:
        return
    prefix = numbered(lengths)
    ours = dataset(prefix, seq_length)
    index = data.draw(st.integers(0, 3 * len(ours)))
    window, boundaries = ours.window(index)
    assert (window.tolist(), boundaries.tolist()) == naive_window(prefix, seq_length, index)


@settings(SLOW_MACHINE, max_examples=40)
@given(st.lists(st.integers(0, 15), min_size=2, max_size=10), st.integers(1, 12), st.integers(0, 2))
def test_each_token_of_an_epoch_is_a_label_once(
    numbered: Numbered, lengths: list[int], seq_length: int, epoch: int
) -> None:
    total = sum(lengths)
    if total <= seq_length:
        return
    ours = dataset(numbered(lengths), seq_length)
    labels, tokens = [], []
    for i in range(epoch * len(ours), (epoch + 1) * len(ours)):
        sample = ours[i]
        labels += sample["labels"].tolist()
        tokens += sample["tokens"].tolist()
    assert len(set(labels)) == len(labels) == len(set(tokens)) == len(tokens) == len(ours) * seq_length
    assert total - 1 - len(labels) < seq_length, "only the tail is left over"


def test_documents_of_one_window_each_come_out_whole(numbered: Numbered) -> None:
    ours = dataset(numbered([8] * 20), 8)
    for i in range(len(ours)):
        sample = ours[i]
        first = int(sample["tokens"][0])
        assert first % 8 == 0 and sample["tokens"].tolist() == list(range(first, first + 8))
        assert sample["cu_seqlens"].tolist() == [0] + [8] * 8


def test_documents_of_several_sequences_are_one(tmp_path: Path) -> None:
    builder = IndexedDatasetBuilder(str(tmp_path / "a.bin"), dtype=np.int32)
    for document in ([[0, 1], [], [2]], [[3, 4, 5], [6]]):
        for sequence in document:
            builder.add_item(torch.tensor(sequence, dtype=torch.int64))
        builder.end_document()
    builder.finalize(str(tmp_path / "a.idx"))
    ours = dataset(str(tmp_path / "a"), 6, SampleRules(reset_attention_mask=True))
    window, boundaries = ours.window(0)
    assert (window.tolist(), boundaries.tolist()) in (
        ([0, 1, 2, 3, 4, 5, 6], [0, 3, 6]),
        ([3, 4, 5, 6, 0, 1, 2], [0, 4, 6]),
    )


def test_only_the_given_documents_are_read(numbered: Numbered) -> None:
    indexed = open_indexed(numbered([10, 10, 10, 10]))
    ours = SampleDataset(indexed, (1, 3), seq_length=4, key=KEY, rules=SampleRules())
    seen = {int(token) for i in range(3 * len(ours)) for token in ours[i]["tokens"]}
    assert seen <= set(range(10, 30)) and len(ours) == 19 // 4


def test_shapes_and_dtypes(numbered: Numbered) -> None:
    sample = dataset(numbered([5, 9, 20]), 8)[0]
    assert {name: (tuple(value.shape), value.dtype) for name, value in sample.items()} == {
        "tokens": ((8,), torch.int64),
        "labels": ((8,), torch.int64),
        "loss_mask": ((8,), torch.float32),
        "position_ids": ((8,), torch.int64),
        "cu_seqlens": ((9,), torch.int32),
    }


def sample_of(window: np.ndarray, boundaries: np.ndarray, rules: SampleRules) -> Sample:
    return make_sample(window[:-1], window[1:], boundaries, rules, KEY)


def test_plain_sample_is_one_stretch() -> None:
    sample = sample_of(np.array([4, 0, 5, 6, 0, 7]), np.array([0, 2, 5]), SampleRules())
    assert sample["tokens"].tolist() == [4, 0, 5, 6, 0]
    assert sample["labels"].tolist() == [0, 5, 6, 0, 7]
    assert sample["position_ids"].tolist() == [0, 1, 2, 3, 4]
    assert sample["cu_seqlens"].tolist() == [0, 5, 5, 5, 5, 5]
    assert sample["loss_mask"].tolist() == [1, 1, 1, 1, 1]


def test_ends_of_documents_are_predicted_unless_asked_otherwise() -> None:
    window, boundaries = np.array([4, 9, 5, 6, 9, 7]), np.array([0, 2, 5])
    assert sample_of(window, boundaries, SampleRules(eod_id=9))["loss_mask"].tolist() == [1, 1, 1, 1, 1]
    masked = sample_of(window, boundaries, SampleRules(eod_id=9, eod_mask_loss=True))
    assert masked["loss_mask"].tolist() == [1, 0, 1, 1, 0]


def test_reset_sample_marks_documents_and_masks_the_label_across_them() -> None:
    rules = SampleRules(positions=PlainPositions(reset=True), reset_attention_mask=True)
    sample = sample_of(np.array([4, 9, 5, 6, 9, 7]), np.array([0, 2, 5]), rules)
    assert sample["position_ids"].tolist() == [0, 1, 0, 1, 2]
    assert sample["cu_seqlens"].tolist() == [0, 2, 5, 5, 5, 5]
    assert sample["loss_mask"].tolist() == [1, 0, 1, 1, 1]


@settings(SLOW_MACHINE, max_examples=60)
@given(st.lists(st.integers(0, 9), min_size=2, max_size=12), st.integers(2, 12), st.integers(0, 1))
def test_with_documents_apart_a_label_is_of_its_token_s_document(
    numbered: Numbered, lengths: list[int], seq_length: int, epoch: int
) -> None:
    """Also where a document ends exactly with its sample, so that the last label begins the next."""
    if sum(lengths) <= seq_length:
        return
    prefix = numbered(lengths)
    ours = dataset(prefix, seq_length, SampleRules(reset_attention_mask=True))
    stream, owners = naive_stream(prefix, epoch)
    owner = dict(zip(stream, owners, strict=True))
    for index in range(epoch * len(ours), (epoch + 1) * len(ours)):
        sample = ours[index]
        pairs = zip(sample["tokens"].tolist(), sample["labels"].tolist(), strict=True)
        assert sample["loss_mask"].tolist() == [float(owner[token] == owner[label]) for token, label in pairs]


def test_documents_of_one_sample_each_never_score_the_next_one(numbered: Numbered) -> None:
    rules = SampleRules(reset_attention_mask=True)
    ours = dataset(numbered([8] * 20), 8, rules)
    assert {tuple(ours[i]["loss_mask"].tolist()) for i in range(len(ours))} == {(1.0,) * 7 + (0.0,)}
    plain = dataset(numbered([8] * 20), 8)
    assert plain[0]["loss_mask"].tolist() == [1.0] * 8, "seen across, the next document is predicted"


@settings(SLOW_MACHINE)
@given(st.lists(st.booleans(), min_size=2, max_size=24), st.booleans())
def test_masks_against_megatron(ends: list[bool], eod_mask_loss: bool) -> None:
    window = np.array([0 if end else 1 for end in ends])
    inner = [i + 1 for i, end in enumerate(ends[:-2]) if end]
    boundaries = np.array([0, *inner, len(ends) - 1])
    tokens = torch.from_numpy(window[:-1])
    blocked, loss_mask, _ = _get_ltor_masks_and_position_ids(tokens, 0, True, True, eod_mask_loss, True)

    plain = sample_of(window, boundaries, SampleRules(eod_mask_loss=eod_mask_loss, eod_id=0))
    assert plain["loss_mask"].tolist() == loss_mask.tolist()

    sample = sample_of(window, boundaries, SampleRules(reset_attention_mask=True))
    place = torch.arange(len(tokens))
    document = torch.bucketize(place, sample["cu_seqlens"][1:].unique().long(), right=True)
    allowed = (place[:, None] >= place[None, :]) & (document[:, None] == document[None, :])
    assert torch.equal(allowed, ~blocked[0])


def test_positions_maker_is_given_a_key_of_its_own_for_every_sample(numbered: Numbered) -> None:
    class Recorder:
        def __init__(self) -> None:
            self.keys: list[tuple[int, ...]] = []

        def __call__(self, boundaries: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
            self.keys.append(key)
            return np.full(boundaries[-1], len(self.keys))

    recorder = Recorder()
    ours = dataset(numbered([40]), 8, SampleRules(positions=recorder))
    samples = [ours[i] for i in range(3 * len(ours))]
    assert [sample["position_ids"].tolist() for sample in samples] == [[i + 1] * 8 for i in range(12)]
    # (seed, split, corpus), epoch, place in the epoch, and what the numbers are for
    assert recorder.keys == [(*KEY, epoch, place, 2) for epoch in range(3) for place in range(4)]


def test_the_window_given_is_left_alone() -> None:
    window = np.array([4, 0, 5, 6])
    sample = sample_of(window, np.array([0, 3]), SampleRules())
    sample["tokens"].fill_(-1)
    sample["labels"].fill_(-1)
    assert window.tolist() == [4, 0, 5, 6]


def test_entries_do_not_share_memory(numbered: Numbered) -> None:
    ours = dataset(numbered([40]), 8)
    sample, labels = ours[0], ours[0]["labels"].clone()
    sample["tokens"].fill_(-1)
    assert torch.equal(sample["labels"], labels) and torch.equal(ours[0]["labels"], labels)


@pytest.mark.parametrize("dtype", [np.uint16, np.int64])
def test_every_element_type_gives_int64(tmp_path: Path, write_pair: Callable[..., str], dtype: type) -> None:
    sample = dataset(write_pair(tmp_path / "a", [[60_000, 2, 3, 4]], dtype), 3)[0]
    assert sample["tokens"].tolist() == [60_000, 2, 3] and sample["tokens"].dtype == torch.int64


def test_order_survives_pickling_into_another_process(numbered: Numbered) -> None:
    ours = dataset(numbered([9, 14, 3, 30]), 8)
    copy = pickle.loads(pickle.dumps(ours))
    assert all(torch.equal(copy[i]["tokens"], ours[i]["tokens"]) for i in range(20))


def naive_stream(prefix: str, epoch: int) -> tuple[list[int], list[int]]:
    """The tokens of an epoch in reading order, and the document of each, from megatron-core's reading."""
    indexed = IndexedDataset(prefix)
    stream: list[int] = []
    owners: list[int] = []
    for document in permutation(len(indexed), (*KEY, epoch, 0)):
        tokens = [int(token) for token in indexed[int(document)]]
        stream += tokens
        owners += [int(document)] * len(tokens)
    return stream, owners


POSES = [
    PoseSpec(60, "paper", 2, "uniform"),
    PoseSpec(60, "paper", 4, "uniform"),
    PoseSpec(60, "paper", 3, "aligned"),
    PoseSpec(200, "released", 2, "uniform"),
]


@pytest.mark.parametrize("spec", POSES, ids=lambda spec: f"{spec.sampler}-{spec.content_offset}")
def test_moved_text_against_a_naive_loop(numbered: Numbered, spec: PoseSpec) -> None:
    lengths, seq_length = [1, 70, 7, 31, 0, 22, 110, 12], 8
    prefix, total = numbered(lengths), sum(lengths)
    ours = dataset(prefix, seq_length, SampleRules(PosePositions(spec), moved_text=spec))
    moved_somewhere = False
    for index in range(3 * len(ours)):
        epoch, place = divmod(index, len(ours))
        stream, owners = naive_stream(prefix, epoch)
        start = int(permutation(len(ours), (*KEY, epoch, 1))[place]) * seq_length
        reach = sum(1 for owner in owners[start:] if owner == owners[start]) - 1
        cap = {"paper": spec.target_window, "released": 5 * seq_length}[spec.sampler]
        source = spec.target_window if spec.content_offset == "aligned" else max(seq_length, min(reach, cap))
        chunks = draw_chunks(spec, seq_length, generator((*KEY, epoch, place, 2)), source)
        tokens, labels, positions = [], [], []
        begun = 0
        for length, skip, offset in zip(chunks.lengths_N, chunks.skips_N, chunks.offsets_N, strict=True):
            for token in range(begun, begun + length):
                tokens.append(stream[(start + offset + token) % total])
                labels.append(stream[(start + offset + token + 1) % total])
                positions.append(skip + token)
            begun += length
        sample = ours[index]
        assert sample["tokens"].tolist() == tokens
        assert sample["labels"].tolist() == labels, "each chunk is followed by its own next token"
        assert sample["position_ids"].tolist() == positions
        assert sample["loss_mask"].tolist() == [1.0] * seq_length
        assert sample["cu_seqlens"].tolist() == [0] + [seq_length] * seq_length, "attention crosses chunks"
        if spec.content_offset == "uniform" and reach >= seq_length:
            document = {owners[stream.index(token)] for token in tokens + labels}
            assert document == {owners[start]}, "text is read from one document"
        moved_somewhere |= bool(chunks.offsets_N[-1])
    assert moved_somewhere


def test_aligned_text_stands_where_its_positions_say(numbered: Numbered) -> None:
    """One document: tokens are numbered in order, so the distance from the first is the position."""
    spec = PoseSpec(64, "paper", 2, "aligned")
    ours = dataset(numbered([500]), 16, SampleRules(PosePositions(spec), moved_text=spec))
    for i in range(2 * len(ours)):
        sample = ours[i]
        behind = (sample["tokens"] - sample["tokens"][0]) % 500
        assert torch.equal(behind, sample["position_ids"])


def test_aligned_text_needs_a_source_of_the_target_s_length(numbered: Numbered) -> None:
    spec = PoseSpec(64, "paper", 2, "aligned")
    rules = SampleRules(PosePositions(spec), moved_text=spec)
    with pytest.raises(DataError, match=r"more than 64 tokens.*64 tokens"):
        dataset(numbered([60, 4]), 16, rules)
    dataset(numbered([60, 5]), 16, rules)


def test_without_moved_text_pose_reads_the_plain_samples(numbered: Numbered) -> None:
    spec = PoseSpec(1000, "contiguous", 2, "zero")
    prefix = numbered([50, 70])
    plain, ours = dataset(prefix, 8), dataset(prefix, 8, SampleRules(PosePositions(spec)))
    for i in range(2 * len(ours)):
        sample, wanted = ours[i], plain[i]
        assert all(torch.equal(sample[key], wanted[key]) for key in wanted if key != "position_ids")
        assert sample["position_ids"][-1] >= 7
