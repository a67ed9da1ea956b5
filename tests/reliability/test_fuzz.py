"""A few of the fuzzer's inputs, always the same ones: the long run is `make fuzz`."""

from __future__ import annotations

import pytest

from tests.reliability.fuzz import NAMES, fuzz


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_read_or_refused_by_errors_of_ours(name: str) -> None:
    tally = fuzz(name, 40)
    assert tally.inputs >= 40
    # Where all were refused at the door, nothing behind it was tried.
    assert tally.outcomes["read"] or name in (".metadata", "common.pt", ".idx", "safetensors", "manifest")


def test_a_fault_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(path: object) -> None:
        raise KeyError("model_type")

    monkeypatch.setattr("nemo_pi.checkpoint.summary.read_summary", faulty)
    with pytest.raises(KeyError):
        fuzz("config.json", 3)
