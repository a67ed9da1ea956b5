"""LongCE's weights against a plain loop in float64 over single tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from demo.corpus import read_documents
from demo.prepare import load_encoder
from evidence.left_out.longce import LongCE
from nemo_pi.evaluation.huggingface import HuggingFaceScorer

BUNDLED = Path(__file__).resolve().parents[4] / "demo" / "model"


@pytest.mark.parametrize("length", [168, 175])
def test_weights_equal_a_plain_loop(length: int) -> None:
    """The last short context is whole, or cut off by the end of the row."""
    text = next(read_documents("heldout")).text[:4000]
    ids = torch.tensor(load_encoder().encode(text).ids[: 2 * (length + 1)]).view(2, -1)
    tokens, labels = ids[:, :-1], ids[:, 1:]
    batch = {"tokens": tokens, "labels": labels, "position_ids": torch.arange(length).expand(2, -1)}
    longce = LongCE(short=40, stride=16, most=1.5)
    weights = longce.weights(HuggingFaceScorer(BUNDLED, device="cpu"), batch)

    model = AutoModelForCausalLM.from_pretrained(BUNDLED, dtype=torch.float64)
    expected = torch.ones(2, length, dtype=torch.float64)
    with torch.inference_mode():
        for row in range(2):
            for token in range(40, length):
                start = (token - 40) // 16 * 16
                probabilities = [
                    model(tokens[row, first:token][None]).logits[0, -1].softmax(-1)[tokens[row, token]]
                    for first in (0, start)
                ]
                expected[row, token - 1] = min(probabilities[0] / probabilities[1], 1.5)
    torch.testing.assert_close(weights.double(), expected, rtol=1e-4, atol=0)
    assert weights.max() == 1.5 and weights.min() < 0.9
