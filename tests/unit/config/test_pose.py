"""PoSE's keys against the windows and against each other."""

from __future__ import annotations

from typing import Any

import pytest

from nemo_pi.config.pose import check_pose
from nemo_pi.config.sections import PoseConfig
from nemo_pi.errors import ConfigError
from nemo_pi.rope.pose_spec import SAMPLERS, PoseSpec
from tests.unit.config.builders import run_of, summary_of


def run_with(pose: dict[str, Any] | None, **model: Any) -> Any:
    data = {"data_prefix": ["/data/tokens"], "pose": pose, **model.pop("data", {})}
    return run_of({"data": data, **model})


def test_the_training_length_is_the_original_window() -> None:
    run = run_with({})
    assert (run.training_length, run.extension.target_window) == (512, 4096)
    assert run.pose == PoseSpec(4096, "paper", 2, "uniform")
    assert run.tokens_per_step == 512


def test_without_pose_it_stays_the_target_window() -> None:
    run = run_with(None)
    assert run.pose is None and run.training_length == 4096


def test_a_given_training_length_wins() -> None:
    assert run_with({}, encoder_seq_length=1024).training_length == 1024
    assert run_with({"chunks": 7}, encoder_seq_length=7).pose == PoseSpec(4096, "paper", 7, "uniform")


@pytest.mark.parametrize("method", ["linear", "ntk", "dynamic", "yarn", "none"])
def test_every_method_goes_with_it(method: str) -> None:
    run = run_with({}, pos_scaling_type=method)
    assert (run.training_length, run.pose.target_window, run.extension.method) == (512, 4096, method)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_each_sampler_reads_text_its_own_way(sampler: str) -> None:
    for offset in (None, *SAMPLERS[sampler]):
        spec = run_with({"sampler": sampler, "content_offset": offset}).pose
        assert spec == PoseSpec(4096, sampler, 2, offset or SAMPLERS[sampler][0])
        assert spec.moves_text == (spec.content_offset != "zero")


@pytest.mark.parametrize(
    ("pose", "model", "field", "words"),
    [
        ({"sampler": "papr"}, {}, "pose.sampler", "did you mean paper?"),
        ({"sampler": "axolotl"}, {}, "pose.sampler", "paper, released, contiguous, random"),
        ({"content_offset": "unifrom"}, {}, "pose.content_offset", "did you mean uniform?"),
        ({"sampler": "contiguous", "content_offset": "uniform"}, {}, "pose.content_offset", "zero, or null"),
        ({"sampler": "released", "content_offset": "aligned"}, {}, "pose.content_offset", "uniform, or null"),
        ({"chunks": 1}, {}, "pose.chunks", "2 to 512"),
        ({"chunks": 0}, {}, "pose.chunks", "2 to 512"),
        ({"chunks": 513}, {}, "pose.chunks", "2 to 512"),
        ({"chunks": 9}, {"encoder_seq_length": 8}, "pose.chunks", "2 to 8"),
        ({"sampler": "released", "chunks": 3}, {}, "pose.chunks", "the released code draws two"),
        ({"sampler": "released", "chunks": 1}, {}, "pose.chunks", "the released code draws two"),
        ({"sampler": "random", "chunks": 3}, {}, "pose.chunks", "a chunk of its own"),
        ({}, {"max_position_embeddings": None}, "pose", "512 and 512 tokens"),
        ({}, {"encoder_seq_length": 4096}, "pose", "4096 and 4096 tokens"),
        ({}, {"encoder_seq_length": 5000}, "encoder_seq_length", "1 to 4096"),
        ({}, {"data": {"pack_documents": True}}, "pose.content_offset", "zero, with pack_documents"),
        ({}, {"data": {"reset_position_ids": True}}, "pose.content_offset", "zero, with reset_position_ids"),
        (
            {"sampler": "released"},
            {"data": {"reset_attention_mask": True}},
            "pose.content_offset",
            "uniform (sampler released)",
        ),
    ],
)
def test_mistakes_are_refused(pose: dict[str, Any], model: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_with(pose, **model)
    assert caught.value.field.removeprefix("model.").removeprefix("data.") == field
    assert words in str(caught.value)


def test_unknown_keys_are_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"did you mean model\.data\.pose\.content_offset\?"):
        run_with({"content_ofset": "zero"})


@pytest.mark.parametrize("key", ["pack_documents", "reset_position_ids", "reset_attention_mask"])
def test_unbroken_text_goes_with_documents(key: str) -> None:
    for pose in ({"sampler": "contiguous"}, {"content_offset": "zero"}, {"sampler": "random"}):
        assert run_with(pose, data={key: True}).pose is not None


def test_a_checkpoint_extended_before_goes_on_with_it() -> None:
    scaled = summary_of(extension=run_with({}).extension)
    data = {"data_prefix": ["/data/tokens"], "pose": {}}
    run = run_of({"data": data, "max_position_embeddings": None}, summary=scaled)
    assert (run.training_length, run.pose) == (512, PoseSpec(4096))


def test_windows_that_meet_leave_nothing_to_skip() -> None:
    check_pose(PoseConfig(), training_length=8, target_window=9)
    with pytest.raises(ConfigError, match="9 and 9 tokens"):
        check_pose(PoseConfig(), training_length=9, target_window=9)
