"""Short documents of Position Interpolation at original positions: the same angles, the same scores."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from demo.methods import TARGET, WINDOW
from evidence.left_out.mixed import FACTOR, as_switched, cut_row
from nemo_pi.evaluation.huggingface import HuggingFaceScorer
from nemo_pi.evaluation.scorer import score_texts
from nemo_pi.rope.spec import ContextExtension
from nemo_pi.rope.tables import rotary_cos_sin

BUNDLED = Path(__file__).resolve().parents[4] / "demo" / "model"


def test_times_the_factor_is_unscaled() -> None:
    windows = {"original_window": WINDOW, "target_window": TARGET, "head_dim": 64}
    scaled = ContextExtension(**windows, method="linear", factor=float(FACTOR))
    plain = ContextExtension(**windows)
    positions = torch.arange(WINDOW)[None]
    found, expected = rotary_cos_sin(scaled, positions * FACTOR), rotary_cos_sin(plain, positions)
    assert all(map(torch.equal, found, expected))


def test_a_row_is_cut_and_its_neighbour_is_not() -> None:
    length = 2 * WINDOW
    batch = {
        "position_ids": torch.arange(length).repeat(2, 1),
        "loss_mask": torch.ones(2, length),
        "cu_seqlens": torch.tensor([0] + [length] * length, dtype=torch.int32).repeat(2, 1),
    }
    batch["tokens"] = batch["position_ids"]
    before = {name: values[1].clone() for name, values in batch.items()}
    cut_row(batch, 0)
    assert batch["position_ids"][0, [0, 1, WINDOW - 1, WINDOW, -1]].tolist() == [0, 8, 4088, 0, 4088]
    assert batch["cu_seqlens"][0, :4].tolist() == [0, WINDOW, length, length]
    assert (batch["loss_mask"][0] == 0).nonzero().flatten().tolist() == [WINDOW - 1, length - 1]
    assert all(torch.equal(batch[name][1], values) for name, values in before.items())


def test_texts_up_to_the_window_are_read_unscaled(tmp_path: Path) -> None:
    scaled = tmp_path / "linear"
    shutil.copytree(BUNDLED, scaled)
    config = json.loads((scaled / "config.json").read_text())
    del config["rope_parameters"]
    # As our exports name it.
    rope = {"rope_scaling": {"rope_type": "linear", "factor": float(FACTOR)}, "rope_theta": 10000.0}
    (scaled / "config.json").write_text(json.dumps({**config, **rope, "max_position_embeddings": TARGET}))
    switched = HuggingFaceScorer(as_switched(scaled, tmp_path / "switched"), device="cpu")
    text = torch.randint(0, 2048, (1, 2 * WINDOW), generator=torch.Generator().manual_seed(1))
    within, beyond = text[:, : WINDOW + 1], text
    for folder, read in ((BUNDLED, within), (scaled, beyond)):
        expected = score_texts(HuggingFaceScorer(folder, device="cpu"), read).logprob_BS
        assert torch.equal(score_texts(switched, read).logprob_BS, expected)
