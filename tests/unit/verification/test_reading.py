"""A text shows what a folder gets wrong, without any other folder to compare with."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.data.tokenizer import build_tokenizer
from nemo_pi.parallel import groups
from nemo_pi.rope.channel_order import interleaved_from_halves
from nemo_pi.rope.spec import ContextExtension
from nemo_pi.verification.findings import Finding
from nemo_pi.verification.reading import other_readings, reading_findings, rows_of_text
from tests.unit.verification.folders import edited, rewritten

DEMO = Path(__file__).resolve().parents[3] / "demo"


@pytest.fixture(autouse=True)
def no_world_is_left() -> Iterator[None]:
    yield
    groups.destroy()


@pytest.fixture(scope="module")
def text_BS() -> Tensor:
    with lzma.open(DEMO / "text" / "heldout.jsonl.xz", "rt") as lines:
        text = json.loads(next(lines))["text"][:6000]
    return rows_of_text(build_tokenizer("huggingface", str(DEMO / "model")).encode(text), 512)


def found(folder: Path, text_BS: Tensor) -> list[Finding]:
    return list(reading_findings(read_summary(folder), text_BS, torch.float32, keep=True))


def test_a_right_folder_is_read_best_as_it_says(text_BS: Tensor) -> None:
    assert text_BS.shape == (4, 256)
    assert {finding.verdict for finding in found(DEMO / "model", text_BS)} == {"ok"}


def test_a_wrong_base_is_found_in_the_folder_alone(text_BS: Tensor, tmp_path: Path) -> None:
    def change(config: dict) -> None:
        for entries in (config, config.get("rope_parameters") or {}):
            entries["rope_theta"] = 500000.0

    findings = found(edited(DEMO / "model", tmp_path / "bad", change), text_BS)
    failed = [finding.against for finding in findings if finding.failed]
    assert "with the base 10000" in failed


def test_another_order_of_channels_is_found_in_the_folder_alone(text_BS: Tensor, tmp_path: Path) -> None:
    order = interleaved_from_halves(64, 64)

    def change(name: str, tensor: Tensor) -> Tensor:
        rotated = name.endswith(("q_proj.weight", "k_proj.weight"))
        return tensor.unflatten(0, (-1, 64))[:, order].flatten(0, 1) if rotated else tensor

    findings = found(rewritten(DEMO / "model", tmp_path / "bad", change), text_BS)
    assert "with other pairs of channels" in [finding.against for finding in findings if finding.failed]


def test_a_model_that_was_scaled_and_not_trained_is_noted(text_BS: Tensor, tmp_path: Path) -> None:
    def change(config: dict) -> None:
        config["rope_parameters"] = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 8.0}
        config["max_position_embeddings"] = 4096
        for key in ("rope_scaling", "rope_theta", "nemo_pi_extension"):
            config.pop(key, None)

    findings = found(edited(DEMO / "model", tmp_path / "scaled", change), text_BS)
    assert not any(finding.failed for finding in findings)
    (note,) = [finding for finding in findings if finding.against == "without its scaling"]
    assert note.verdict == "note" and "not trained since" in note.where


def test_other_readings_leave_the_right_one_out() -> None:
    plain = ContextExtension.unscaled(512, 64, base=500000.0)
    assert "with the base 500000" not in other_readings(plain)
    assert "without its scaling" not in other_readings(plain)


def test_rows_of_text_fit_the_window() -> None:
    assert rows_of_text(list(range(100)), 512).shape == (1, 100)
    assert rows_of_text(list(range(100)), 30).shape == (3, 30)
