"""The plan's rows by length, against the documents counted in the samples of a pass."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nemo_pi.config.plan import render_plan
from nemo_pi.config.plan_lengths import tokens_by_class
from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.data.datasets import build_datasets
from nemo_pi.data.length_weights import parse_length_weights
from tests.unit.config.builders import run_of
from tests.unit.config.test_plan import rows
from tests.unit.nemo.runs import write_tokens

WEIGHTS = {0: 0.5, 30: 1, 45: 2.5}


def run_on(folder: Path, **data: Any) -> ResolvedRun:
    """Of 40 documents of 20 to 59 tokens each, but for the second corpus, which has the first 10 of them."""
    more = {"data_prefix": [str(write_tokens(folder / "a"))], "splits_string": "8,2,0", **data}
    return run_of({"encoder_seq_length": 64, "data": {"length_weights": WEIGHTS, **more}})


def test_rows_against_the_samples_of_a_pass(tmp_path: Path) -> None:
    run = run_on(tmp_path, pack_documents=True)
    data = {**run.data_mapping(), "check_token_ids": False}
    train, _, _ = build_datasets(
        data, seq_length=64, vocab_size=None, seed=run.seed, num_samples=(10**6, 0, 0), eod_id=0
    )
    assert train is not None
    counted: Counter[int] = Counter()
    for number in range(train.parts[0].samples_per_epoch):
        sample = train[number]
        edges = np.unique(sample["cu_seqlens"].numpy())
        for start, end in pairwise(edges):
            if sample["loss_mask"][start] > 0:  # else it is padding
                length = int(end - start) + 1
                counted[max(bound for bound in WEIGHTS if bound <= length)] += length
    total = sum(counted.values())
    weights = parse_length_weights(WEIGHTS)
    assert weights is not None
    text, read = tokens_by_class(run, weights) or ((), ())
    assert list(read) == pytest.approx([counted[bound] / total for bound in WEIGHTS])
    train_lengths = range(20, 52)  # 8 of 10 documents
    parts = [sum(n for n in train_lengths if a <= n < b) for a, b in ((0, 30), (30, 45), (45, 99))]
    assert list(text) == pytest.approx([part / sum(parts) for part in parts])


def test_corpora_count_by_their_weights(tmp_path: Path) -> None:
    small = str(write_tokens(tmp_path / "b", documents=10))
    prefix = {"train": [0.75, str(tmp_path / "a"), 0.25, small], "validation": [small]}
    weights = parse_length_weights({45: 2})
    assert weights is not None
    text, read = tokens_by_class(run_on(tmp_path, data_prefix=prefix, length_weights={45: 2}), weights) or (
        (),
        (),
    )
    short, long = sum(range(20, 45)), sum(range(45, 60))
    assert text[1] == pytest.approx(0.75 * long / (short + long))
    assert read[1] == pytest.approx(0.75 * 2 * long / (short + 2 * long))


def test_the_plan_shows_each_class(tmp_path: Path) -> None:
    plan = rows(render_plan(run_on(tmp_path)))
    # 20 … 51 tokens: 245 below 30, 555 from 30 on, 336 from 45 on; 100 steps of 64 tokens.
    assert plan["30 to 44"].startswith("× 1: 49% of the text, ")
    assert plan["45 or more"].endswith(" tokens") and "× 2.5: 30% of the text" in plan["45 or more"]
    assert plan["training text"] == "about 1,264 tokens"
    assert "by length" not in rows(render_plan(run_on(tmp_path, length_weights=None)))
    assert "by length" not in rows(render_plan(run_on(tmp_path, data_prefix=["/none"])))
