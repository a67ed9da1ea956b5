"""When a run saves itself, how many checkpoints it keeps, and what a stop signal does."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer

from nemo_pi.checkpoint.files import read_json
from nemo_pi.checkpoint.manifest import read_manifest
from nemo_pi.checkpoint.retention import checkpoint_folder
from nemo_pi.checkpoint.summary import read_source_config, read_summary
from nemo_pi.nemo import backends, sample_settings
from nemo_pi.nemo.checkpointing import DistributedCheckpointing
from nemo_pi.nemo.stopping import STOP_SIGNALS
from tests.unit.nemo.runs import fit, resolved

pytestmark = pytest.mark.usefixtures("one_rank")


def steps_of(root: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in root.iterdir())


def test_folders_sort_by_step() -> None:
    names = [checkpoint_folder(Path("/ck"), step).name for step in (9, 10, 99_999_999)]
    assert names == sorted(names) == ["step_00000009", "step_00000010", "step_99999999"]


@pytest.mark.parametrize(
    ("every", "keep", "kept"), [(0, 0, [5]), (2, 0, [2, 4, 5]), (1, 2, [4, 5]), (5, 1, [5]), (10, 0, [5])]
)
def test_saves_on_time_and_at_the_end(
    every: int, keep: int, kept: list[int], inputs: Path, tmp_path: Path
) -> None:
    saving = DistributedCheckpointing(tmp_path / "ck", every, keep)
    fit(resolved(inputs, tmp_path, trainer__max_steps=5), saving, max_steps=5)
    assert steps_of(tmp_path / "ck") == kept
    summaries = [read_summary(checkpoint_folder(tmp_path / "ck", step)) for step in kept]
    assert [(s.global_step, s.consumed_samples) for s in summaries] == [(step, 4 * step) for step in kept]


def test_a_save_says_all_that_a_later_one_must_know(inputs: Path, tmp_path: Path) -> None:
    """What is left out of the manifest is lost: the source's bos, eos and all else in its config.json."""
    run = resolved(inputs, tmp_path)
    fit(run, DistributedCheckpointing(tmp_path / "ck", 0, 0), max_steps=1)
    folder = checkpoint_folder(tmp_path / "ck", 1)
    manifest = read_manifest(folder)
    assert manifest["source_config"] == read_source_config(inputs / "start") == read_source_config(folder)
    assert (
        manifest["source_config"]["config"]["bos_token_id"]
        == read_json(inputs / "start" / "config.json")["bos_token_id"]
    )
    assert manifest["shape"] == run.shape.to_dict() and manifest["extension"] == run.extension.to_dict()
    assert manifest["window_source"] == run.window_source
    assert manifest[sample_settings.RECORD] == sample_settings.sample_settings(run)
    assert set(manifest[backends.RECORD]) >= {"rotary", "attention"}


class Signal(Callback):
    """Sends this process a signal in the middle of its second step."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_stop_signal_saves_the_step_and_ends_the_run(
    number: signal.Signals, inputs: Path, tmp_path: Path
) -> None:
    before = {each: signal.getsignal(each) for each in STOP_SIGNALS}
    saving = DistributedCheckpointing(tmp_path / "ck", 0, 0)
    _, trainer = fit(resolved(inputs, tmp_path), saving, Signal(number), max_steps=4)
    assert trainer.global_step == 2
    assert steps_of(tmp_path / "ck") == [2]
    assert {each: signal.getsignal(each) for each in STOP_SIGNALS} == before
