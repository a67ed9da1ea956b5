"""Weighted tokens on Megatron's engine against autograd over transformers' model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from evidence.left_out.training import WeighingEngine
from nemo_pi.checkpoint.hf.load import load_huggingface
from nemo_pi.engine.engine import EngineSettings
from nemo_pi.parallel.layout import ParallelLayout
from tests.unit.engine.loops import random_batch
from tests.unit.model.models import SHAPE, causal_logits, plain, transformers_model

pytestmark = pytest.mark.usefixtures("one_rank")


def test_loss_and_gradient_are_weighed_and_tokens_are_counted(tmp_path: Path) -> None:
    model = transformers_model()
    model.save_pretrained(tmp_path)
    engine = WeighingEngine(EngineSettings(SHAPE, plain(), ParallelLayout(), micro_batch_size=4))
    load_huggingface(engine.chunks, tmp_path, SHAPE)
    engine.start_training()
    batch = random_batch()
    batch["loss_mask"].fill_(1.0)
    weights = torch.rand(batch["tokens"].shape, generator=torch.Generator().manual_seed(2)) * 5
    loss = engine.forward_backward({**batch, "weights": weights})

    logits = causal_logits(model, batch["tokens"], batch["position_ids"])
    each = cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), reduction="none")
    expected = (each * weights.flatten()).sum() / weights.numel()
    expected.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert engine.step() == pytest.approx(norm.item(), rel=1e-4)
    # Without weights it is the engine that every run has.
    assert engine.forward_backward(batch) != pytest.approx(loss, rel=0.1)
