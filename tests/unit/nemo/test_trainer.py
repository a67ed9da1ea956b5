"""What Lightning is told: devices from the launcher, progress from a checkpoint."""

from __future__ import annotations

import pytest

from nemo_pi.nemo import trainer as module


def test_torchruns_layout_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setenv("WORLD_SIZE", "12")
    assert module._launched_devices() == {"devices": 4, "num_nodes": 3}
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert module._launched_devices() == {}
