"""A run that goes on reads samples of the same kind, or says what was changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nemo_pi.checkpoint.manifest import MANIFEST, build_manifest
from nemo_pi.errors import ConfigError
from nemo_pi.nemo.sample_settings import RECORD, check_same_samples, sample_settings
from tests.unit.nemo.runs import resolved

POSE = {"sampler": "paper", "content_offset": "zero"}


def write_manifest(folder: Path, **record: Any) -> Path:
    meta = {"shape": {}, "extension": {}, "global_step": 2, "consumed_samples": 8, **record}
    (folder / MANIFEST).write_text(json.dumps(build_manifest(meta, {})))
    return folder


@pytest.mark.parametrize(
    ("changes", "field", "required", "given"),
    [
        ({"model__data__pose__sampler": "contiguous"}, "model.data.pose.sampler", "paper", "contiguous"),
        ({"model__data__pose__chunks": 3}, "model.data.pose.chunks", "2", "3"),
        (
            {"model__data__pose__content_offset": "uniform"},
            "model.data.pose.content_offset",
            "zero",
            "uniform",
        ),
        ({"model__data__seed": 5}, "model.data.seed", "1234", "5"),
        ({"model__seed": 5}, "model.data.seed", "1234", "5"),
        ({"model__data__pack_documents": True}, "model.data.pack_documents", "false", "true"),
        ({"model__data__reset_attention_mask": True}, "model.data.reset_attention_mask", "false", "true"),
        ({"model__data__reset_position_ids": True}, "model.data.reset_position_ids", "false", "true"),
        ({"model__encoder_seq_length": 16}, "model.encoder_seq_length", "32", "16"),
        (
            {"model__data__pose": None},
            "model.data.pose.sampler, model.data.pose.chunks, model.data.pose.content_offset",
            "paper, 2, zero",
            "null, null, null",
        ),
    ],
)
def test_changes_are_refused_by_name(
    changes: dict[str, Any], field: str, required: str, given: str, inputs: Path, tmp_path: Path
) -> None:
    first = resolved(inputs, tmp_path, model__data__pose=dict(POSE))
    write_manifest(tmp_path, **{RECORD: sample_settings(first)})
    check_same_samples(first, tmp_path)
    with pytest.raises(ConfigError) as caught:
        other = {"model__data__pose": dict(POSE), **changes}
        check_same_samples(resolved(inputs, tmp_path, **other), tmp_path)
    assert caught.value.field == field
    assert caught.value.required == f"{required}, as {tmp_path} was trained"
    assert caught.value.given == given


def test_what_samples_do_not_depend_on_may_change(inputs: Path, tmp_path: Path) -> None:
    run = resolved(inputs, tmp_path, model__data__pose=dict(POSE))
    write_manifest(tmp_path, **{RECORD: sample_settings(run)})
    other = {"model__global_batch_size": 8, "trainer__max_steps": 9, "model__data__num_workers": 2}
    check_same_samples(resolved(inputs, tmp_path, model__data__pose=dict(POSE), **other), tmp_path)


def test_a_checkpoint_that_does_not_say_is_gone_on_from(inputs: Path, tmp_path: Path) -> None:
    check_same_samples(resolved(inputs, tmp_path), write_manifest(tmp_path))
