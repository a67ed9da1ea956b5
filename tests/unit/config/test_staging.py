"""Where stages begin: steps, samples, and the place in data that they share or do not."""

from __future__ import annotations

from typing import Any

from tests.unit.config.test_stages import staged


def places(stages: list[dict[str, Any]], **model: Any) -> list[tuple[int, int, int]]:
    """(first step, samples of the run before, first sample of its data) of each stage."""
    given = {"global_batch_size": 4, "optim": {"sched": {"warmup_steps": 0}}, **model}
    runs = staged([{"max_steps": 10, **stage} for stage in stages], given)
    return [(run.stage.first_step, run.stage.samples_before, run.stage.first_sample) for run in runs]


def test_data_of_one_kind_goes_on_sample_by_sample() -> None:
    assert places([{}, {"global_batch_size": 8}, {}]) == [(0, 0, 0), (10, 40, 40), (20, 120, 120)]


def test_other_lengths_go_on_by_tokens() -> None:
    # 40 samples of 512 are 5 of 4,096; three more of 4,096 are 24 of 512.
    stages = [
        {"encoder_seq_length": 512},
        {"max_steps": 3, "global_batch_size": 1},
        {"encoder_seq_length": 512},
    ]
    assert [sample for _, _, sample in places(stages)] == [0, 5, 64]
    uneven = [{"encoder_seq_length": 500}, {"encoder_seq_length": 512}]
    assert [sample for _, _, sample in places(uneven)] == [0, -(-40 * 500 // 512)]


def test_other_data_begins_at_its_own_beginning() -> None:
    other = {"data.data_prefix": ["/data/other"]}
    assert [sample for _, _, sample in places([{}, other, {}, other])] == [0, 0, 40, 40]
    assert [sample for _, _, sample in places([{}, {"data.seed": 5}])] == [0, 0]


def test_data_may_begin_anew() -> None:
    assert [sample for _, _, sample in places([{}, {"reset_data": True}, {}])] == [0, 0, 40]
