"""Logits by whole passes against transformers and against the cached ones (more ranks: tests/integration)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.engine.next_logits import UncachedLogits
from nemo_pi.engine.opening import open_engine
from nemo_pi.model.generation import Decoder
from nemo_pi.parallel.layout import ParallelLayout
from tests.unit.model.models import SHAPE, WINDOW, causal_logits, transformers_model

pytestmark = pytest.mark.usefixtures("one_rank")
DYNAMIC = {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 3.0}}


@pytest.mark.parametrize("length", [9, WINDOW + 7])
@pytest.mark.parametrize("settings", [{}, DYNAMIC], ids=["plain", "dynamic"])
def test_whole_passes_give_what_transformers_and_the_cache_give(
    settings: dict[str, Any], length: int, tmp_path: Path
) -> None:
    model = transformers_model(**settings)
    model.save_pretrained(tmp_path)
    engine = open_engine(read_summary(tmp_path), ParallelLayout())
    generator = torch.Generator().manual_seed(length)
    text_BS = torch.randint(SHAPE.vocab_size, (3, length), generator=generator)
    logits_BV = UncachedLogits(engine)(text_BS)
    assert logits_BV.shape == (3, SHAPE.vocab_size) and logits_BV.dtype == torch.float32
    with torch.no_grad():
        expected_BV = causal_logits(model, text_BS, torch.arange(length).expand_as(text_BS))[:, -1]
        cached_BV = Decoder(engine.chunks[0], 3, length).logits(text_BS)
    torch.testing.assert_close(logits_BV, expected_BV, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits_BV, cached_BV, rtol=1e-4, atol=1e-4)
