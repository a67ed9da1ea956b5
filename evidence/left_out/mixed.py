"""Mixed windows (LongRoPE2, arXiv 2502.20082, section 4): short documents keep their original positions.

Position Interpolation divides a position by the factor, so the original positions of a short document are its
own times the factor, exactly: training needs no second table. Texts are then read with the original positions
as long as they fit the original window; Hugging Face's `longrope` says that with factors of 1 up to
it and the factor beyond.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from torch import Tensor

from demo.methods import TARGET, WINDOW

FACTOR = TARGET // WINDOW


def cut_row(batch: dict[str, Tensor], row: int) -> None:
    """Make one sample of a batch short documents of WINDOW tokens each, in place.

    Each sees only itself, at its original positions; no label crosses into the next.

    Args:
        batch: samples, see data.samples; their length is a multiple of WINDOW.
        row: which of them.
    """
    length = batch["tokens"].size(1)
    documents = length // WINDOW
    batch["position_ids"][row] = torch.arange(WINDOW).repeat(documents) * FACTOR
    batch["cu_seqlens"][row] = length
    batch["cu_seqlens"][row, :documents] = torch.arange(documents, dtype=torch.int32) * WINDOW
    if documents > 1:
        batch["loss_mask"][row, WINDOW - 1 :: WINDOW] = 0.0


def as_switched(folder: Path, copy: Path) -> Path:
    """Copy an export of Position Interpolation to one that reads texts of up to WINDOW tokens unscaled.

    Returns:
        `copy`.
    """
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del config["rope_scaling"]  # exports write this older name, which would win
    pairs = config["head_dim"] // 2
    config["original_max_position_embeddings"] = WINDOW
    config["rope_parameters"] = {
        "rope_type": "longrope",
        "rope_theta": config["rope_theta"],
        "factor": float(FACTOR),
        "attention_factor": 1.0,
        "original_max_position_embeddings": WINDOW,
        "short_factor": [1.0] * pairs,
        "long_factor": [float(FACTOR)] * pairs,
    }
    (copy / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    return copy
