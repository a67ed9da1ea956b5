"""The progress bar, read off standard error."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from nemo_pi.nemo.progress import StepProgressBar


def drive(bar: StepProgressBar, start: int, end: int, metrics: dict[str, float]) -> None:
    """What Lightning does to it over some steps; only the trainer's few fields it reads."""
    trainer: Any = SimpleNamespace(
        max_steps=20, global_step=start, world_size=4, progress_bar_metrics=metrics, is_global_zero=True
    )
    module: Any = SimpleNamespace()
    bar.setup(trainer, module, "fit")
    bar.on_train_start(trainer, module)
    for step in range(start, end):
        trainer.global_step = step + 1
        bar.on_train_batch_end(trainer, module, None, None, step)
    bar.on_train_end(trainer, module)


METRICS = {"reduced_train_loss": 3.14159, "lr": 2e-5, "tokens_per_second_per_gpu": 500.0}


def test_a_log_file_gets_a_line_every_so_many_steps(capsys: pytest.CaptureFixture[str]) -> None:
    drive(StepProgressBar(log_every=5), 0, 20, METRICS)
    lines = [line for line in re.split(r"[\r\n]+", capsys.readouterr().err) if "loss=" in line]
    assert [re.findall(r"(\d+)/20", line)[0] for line in lines][:4] == ["5", "10", "15", "20"]
    assert "loss=3.1416" in lines[0] and "lr=2.00e-05" in lines[0]
    assert "tokens/s=2,000" in lines[0]  # of all four ranks


def test_a_resumed_run_starts_where_it_left_off(capsys: pytest.CaptureFixture[str]) -> None:
    drive(StepProgressBar(log_every=1), 12, 13, {**METRICS, "val_loss": 2.5})
    text = capsys.readouterr().err
    assert "13/20" in text and "val=2.5000" in text
    assert not re.search(r"\b[01]/20", text)


def test_disabled_it_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    bar = StepProgressBar()
    bar.disable()
    drive(bar, 0, 20, METRICS)
    assert capsys.readouterr().err == ""
    bar.enable()
    drive(bar, 0, 20, METRICS)
    assert "20/20" in capsys.readouterr().err
