"""build_datasets: what a YAML's data section gives, and what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from nemo_pi.data.datasets import build_datasets
from nemo_pi.errors import ConfigError, DataError
from nemo_pi.rope.pose_spec import PoseSpec

Numbered = Callable[[Sequence[int]], str]


def build(cfg: dict[str, Any], **kwargs: Any) -> Any:
    chosen = {"seq_length": 8, "vocab_size": 10_000, "seed": 1, "num_samples": (50, 20, 10), **kwargs}
    return build_datasets(OmegaConf.create(cfg), **chosen)


@pytest.fixture
def prefix(numbered: Numbered) -> str:
    return numbered([20] * 40)


def tokens(dataset: Any) -> list[int]:
    return [int(token) for sample in dataset for token in sample["tokens"]]


def test_splits_share_no_token(prefix: str) -> None:
    train, validation, test = build({"data_prefix": [prefix], "splits_string": "80,10,10"})
    assert (len(train), len(validation), len(test)) == (50, 20, 10)
    assert set(tokens(train)) <= set(range(640))
    assert set(tokens(validation)) <= set(range(640, 720))
    assert set(tokens(test)) <= set(range(720, 800))


def test_sample_depends_on_seed_and_index_alone(prefix: str) -> None:
    cfg = {"data_prefix": [0.3, prefix, 0.7, prefix], "splits_string": "80,10,10"}
    first, again = build(cfg)[0], build(cfg, num_samples=(500, 0, 0))[0]
    for i in reversed(range(50)):
        assert all(torch.equal(first[i][name], again[i][name]) for name in first[i])
    assert tokens(first) != tokens(build(cfg, seed=2)[0])
    assert tokens(build({**cfg, "seed": 2})[0]) == tokens(build(cfg, seed=2)[0])


def test_one_corpus_twice_in_a_blend_is_read_in_two_orders(prefix: str) -> None:
    train = build({"data_prefix": [0.5, prefix, 0.5, prefix]})[0]
    assert train.parts[0][0]["tokens"].tolist() != train.parts[1][0]["tokens"].tolist()


def test_a_split_that_is_too_short_is_named(prefix: str) -> None:
    with pytest.raises(DataError, match=rf"^{re.escape(prefix)}, validation: required at least 101 "):
        build({"data_prefix": [prefix], "splits_string": "80,10,10"}, seq_length=100)


def test_prefix_per_split(numbered: Numbered) -> None:
    a, b = numbered([30]), numbered([10, 30])
    train, validation, test = build(
        {"data_prefix": {"train": [1, a, 2, b], "validation": [b]}, "splits_string": "1,0,0"}
    )
    assert train.weights == (1 / 3, 2 / 3) and len(validation) == 20 and test is None
    assert validation.parts[0].samples_per_epoch == 39 // 8


def test_nothing_is_opened_for_a_split_nobody_asks_for(tmp_path: Path, prefix: str) -> None:
    cfg = {"data_prefix": {"train": prefix, "test": str(tmp_path / "missing")}}
    assert build(cfg, num_samples=(5, 5, 0))[1:] == (None, None)
    with pytest.raises(DataError, match="no file"):
        build(cfg, num_samples=(5, 5, 5))


def test_share_of_zero_gives_no_dataset(prefix: str) -> None:
    assert build({"data_prefix": prefix, "splits_string": "1,0,0"})[1:] == (None, None)
    assert build({"data_prefix": prefix})[1:] == (None, None)


@pytest.mark.parametrize("splits_string", ["98,1,1", "1,98,1", "98,1", "1,98,0"])
@pytest.mark.parametrize("documents", [3, 4, 9])
def test_the_parts_that_a_message_offers_fill_every_split(
    splits_string: str, documents: int, numbered: Numbered
) -> None:
    prefix = numbered([20] * documents)
    with pytest.raises(DataError, match=r"model\.data\.splits_string") as caught:
        build({"data_prefix": prefix, "splits_string": splits_string})
    offered = re.match(r"model\.data\.splits_string=(\[[\d,]+\]),", caught.value.fix)
    assert offered is not None and sum(json.loads(offered[1])) == documents
    splits = build({"data_prefix": prefix, "splits_string": json.loads(offered[1])})
    shares = [*splits_string.split(","), "0"][:3]
    assert [split is None for split in splits] == [share == "0" for share in shares]


def test_more_splits_than_documents(numbered: Numbered) -> None:
    with pytest.raises(DataError) as caught:
        build({"data_prefix": numbered([20]), "splits_string": "98,1,1"})
    assert caught.value.fix.startswith("name each split's files")
    assert caught.value.fix.endswith("trainer.limit_val_batches=0 validates never")


def test_the_length_that_a_message_offers_fits(numbered: Numbered) -> None:
    prefix = numbered([5])
    with pytest.raises(DataError) as caught:
        build({"data_prefix": prefix}, seq_length=64)
    offered = int(caught.value.fix.partition("model.encoder_seq_length=")[2].split()[0])
    assert offered == 4 and build({"data_prefix": prefix}, seq_length=offered)[0] is not None


@pytest.mark.parametrize("splits_string", [None, "0,1,0"])
def test_nothing_to_train_on_is_refused(prefix: str, splits_string: str | None) -> None:
    data_prefix = prefix if splits_string else {"validation": prefix}
    cfg = {"data_prefix": data_prefix, "splits_string": splits_string}
    with pytest.raises(ConfigError, match="something to train on"):
        build(cfg)
    train, validation, _ = build(cfg, num_samples=(0, 5, 0))
    assert train is None and len(validation) == 5


def test_share_too_small_for_a_document_is_refused(numbered: Numbered) -> None:
    with pytest.raises(DataError, match=r"splits_string.*none of its 4 documents"):
        build({"data_prefix": numbered([20] * 4), "splits_string": "98,1,1"})


def test_too_few_tokens_are_refused(numbered: Numbered) -> None:
    with pytest.raises(DataError, match=r"at least 9 tokens.*8 tokens in 1 document\."):
        build({"data_prefix": numbered([8])})
    build({"data_prefix": numbered([9])})


def test_ids_outside_the_vocabulary_are_refused_unless_switched_off(prefix: str) -> None:
    with pytest.raises(DataError, match="id 799 at token 799"):
        build({"data_prefix": prefix}, vocab_size=799)
    with pytest.raises(DataError, match="id 799 at token 799"):
        build({"data_prefix": prefix, "check_token_ids": None}, vocab_size=799)
    build({"data_prefix": prefix}, vocab_size=800)
    build({"data_prefix": prefix, "check_token_ids": False}, vocab_size=799)


def test_rules_reach_the_samples(prefix: str) -> None:
    cfg = {
        "data_prefix": prefix,
        "reset_position_ids": True,
        "reset_attention_mask": True,
        "eod_mask_loss": True,
    }
    train = build(cfg, eod_id=5, num_samples=(99, 0, 0))[0]
    samples = list(train)
    assert any((sample["position_ids"].diff() < 0).any() for sample in samples)
    assert any((sample["cu_seqlens"] < 8).sum() > 1 for sample in samples)
    masked = [
        sample["loss_mask"][sample["tokens"] == 5].tolist() for sample in samples if 5 in sample["tokens"]
    ]
    assert masked and all(values == [0.0] for values in masked)


def test_positions_and_attention_reset_apart(prefix: str) -> None:
    only_positions = build({"data_prefix": prefix, "reset_position_ids": True})[0]
    assert all(sample["cu_seqlens"].tolist() == [0] + [8] * 8 for sample in only_positions)
    only_attention = build({"data_prefix": prefix, "reset_attention_mask": True})[0]
    assert all(sample["position_ids"].tolist() == list(range(8)) for sample in only_attention)


def test_eod_mask_without_an_id_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigError, match="eod_mask_loss"):
        build({"data_prefix": prefix, "eod_mask_loss": True})


def test_an_end_outside_the_vocabulary_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigError, match=r"model\.tokenizer.* 2000; given one .* id 2000"):
        build({"data_prefix": prefix}, vocab_size=2000, eod_id=2000)


@pytest.mark.parametrize("seed", [-1, "x", 1.5, True])
def test_bad_seed_is_refused(prefix: str, seed: Any) -> None:
    with pytest.raises(ConfigError, match=r"data\.seed"):
        build({"data_prefix": prefix, "seed": seed})


def test_missing_prefix_is_refused() -> None:
    with pytest.raises(ConfigError, match="data_prefix"):
        build({})


def test_first_samples_never_change(prefix: str) -> None:
    # First tokens of the first samples, as they were when the order was first released.
    train = build({"data_prefix": [0.25, prefix, 0.75, prefix]}, seed=1234)[0]
    assert [int(train[i]["tokens"][0]) for i in range(8)] == [788, 200, 176, 524, 740, 124, 796, 100]


def test_packed_documents_reach_the_samples(prefix: str) -> None:
    train, validation, _ = build(
        {"data_prefix": prefix, "splits_string": "75,25,0", "pack_documents": True}, seq_length=64, eod_id=3
    )
    assert len(train) == 50 and len(validation) == 20
    for sample in train:
        # Documents of 20 tokens have 19 predictions: three fill a row of 64, and 7 tokens are left.
        assert sample["cu_seqlens"].unique().tolist() == [0, 19, 38, 57, 64]
        assert sample["position_ids"].tolist() == [*list(range(19)) * 3, *range(7)]
        assert sample["loss_mask"].tolist() == [1] * 57 + [0] * 7
        assert sample["tokens"][57:].tolist() == [3] * 7


@pytest.mark.parametrize("how", [("paper", "uniform"), ("paper", "aligned"), ("random", "zero")])
def test_pose_reaches_the_samples_of_every_split(prefix: str, how: tuple[str, str]) -> None:
    spec = PoseSpec(70, how[0], 2, how[1])
    cfg = {"data_prefix": prefix, "splits_string": "60,20,20"}
    for split in build(cfg, pose=spec):
        samples = list(split)
        assert len({tuple(sample["position_ids"].tolist()) for sample in samples}) > len(samples) / 2
        assert max(int(sample["position_ids"].max()) for sample in samples) > 40
    first, again = build(cfg, pose=spec)[0], build(cfg, pose=spec)[0]
    assert all(torch.equal(first[i]["position_ids"], again[i]["position_ids"]) for i in (0, 9))


def test_pose_in_packed_documents(prefix: str) -> None:
    spec = PoseSpec(1000, "paper", 2, "zero")
    train = build({"data_prefix": prefix, "pack_documents": True}, seq_length=64, pose=spec)[0]
    for sample in train:
        starts = sample["position_ids"][sample["cu_seqlens"].unique()[:-1].long()]
        assert starts.numel() > 1 and not starts.any()


def test_blended_corpora_draw_apart(numbered: Numbered) -> None:
    """The same place of two corpora of equal size: other skips."""
    a, b = numbered([40]), numbered([40])
    spec = PoseSpec(10**6, "contiguous", 2, "zero")
    train = build({"data_prefix": [1, a, 1, b]}, pose=spec)[0]
    first, second = (part.sample(0)["position_ids"].tolist() for part in train.parts)
    assert first != second
