"""Loggers that a full disk silences."""

from __future__ import annotations

import logging

import pytest

from nemo_pi.nemo.loggers import tolerate_failures


class Full:
    """A logger whose disk is full from the second line on."""

    def __init__(self) -> None:
        self.lines: list[float] = []
        self.error: Exception = OSError(28, "No space left on device")

    def log_metrics(self, value: float) -> None:
        if self.lines:
            # As Lightning's: its own error from whatever went wrong.
            raise ValueError("you tried to log") from self.error
        self.lines.append(value)

    def finalize(self, status: str) -> None:
        raise self.error


def test_what_cannot_be_written_is_left_out_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    full = Full()
    tolerate_failures([full])
    with caplog.at_level(logging.WARNING):
        for value in (1.0, 2.0, 3.0):
            full.log_metrics(value)
        full.finalize("success")
    assert full.lines == [1.0]
    assert caplog.text.count("Full cannot write") == 1


def test_a_mistake_of_ours_is_no_full_disk() -> None:
    full = Full()
    full.error = TypeError("not a number")
    tolerate_failures([full])
    full.log_metrics(1.0)
    with pytest.raises(ValueError):
        full.log_metrics(2.0)
