"""The command line of examples/verify.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.cli import verify
from nemo_pi.errors import ConfigError
from nemo_pi.parallel.layout import ParallelLayout
from nemo_pi.verification.verify import Request
from tests.unit.verification.folders import edited, folder_of

BUNDLED = Path(__file__).resolve().parents[3] / "demo" / "model"


def test_a_right_folder_ends_with_0_and_a_wrong_one_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = folder_of(tmp_path / "good")

    def another_base(config: dict) -> None:
        config["rope_parameters"]["rope_theta"] = 50000.0

    bad = edited(good, tmp_path / "bad", another_base)
    assert verify.run(arguments=[str(good)]) == 0
    results = tmp_path / "results" / "verified.json"
    assert verify.run(arguments=[str(bad), "--against", str(good), "--results", str(results)]) == 1
    said = capsys.readouterr()
    assert "FAILED" in said.out and "allowed:" in said.out
    assert "of memory, the whole model at once" in said.err
    written = json.loads(results.read_text())
    assert written["failed"] > 0
    worst = [finding for finding in written["findings"] if finding["verdict"] == "FAILED"]
    assert all(finding["difference"] is None or finding["difference"] > 0 for finding in worst)


def test_layouts_by_their_names() -> None:
    assert verify.parse_layout("tp2-sp") == ParallelLayout(tp=2, sequence_parallel=True)
    assert verify.parse_layout("pp2-vpp2") == ParallelLayout(pp=2, vpp=2)
    assert verify.parse_layout("tp2-cp2") == ParallelLayout(tp=2, cp=2)


@pytest.mark.parametrize("name", ["dp2", "tp", "tp0", "2", "tp2+cp2"])
def test_a_layout_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="--layouts"):
        verify.parse_layout(name)


def test_a_layout_that_does_not_fit_the_model_is_refused_before_anything_is_read() -> None:
    with pytest.raises(ConfigError, match="num_attention_heads"):
        verify.run(arguments=[str(BUNDLED), "--layouts", "tp3"])


def test_a_folder_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="checkpoint"):
        verify.run(arguments=["demo/modle"])


def test_the_cost_is_said() -> None:
    said = verify.describe_cost(Request(read_summary(BUNDLED)))
    assert "3.71 million parameters" in said or "million parameters" in said
    assert "a layer at a time" in verify.describe_cost(Request(read_summary(BUNDLED), keep=False))
