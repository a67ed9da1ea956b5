"""A lone replica's gradients and weights pass through no collective."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch.profiler import ProfilerActivity, profile

from nemo_pi.engine.optimizer import AdamSettings
from tests.unit.engine.loops import engine_of, random_batch
from tests.unit.model.models import transformers_model


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("distributed", [False, True])
def test_a_lone_replica_reduces_and_gathers_no_buffers(distributed: bool, tmp_path: Path) -> None:
    transformers_model().save_pretrained(tmp_path)
    engine = engine_of(
        tmp_path, micro_batch_size=2, optim=AdamSettings(use_distributed_optimizer=distributed)
    )
    assert all(module.alone for module in engine.modules)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        engine.forward_backward(random_batch())
        engine.step()
    calls = [event for event in profiler.events() if event.name.startswith("c10d::")]
    assert not any("scatter" in call.name or "gather" in call.name for call in calls)
    assert len(calls) <= 4  # of single numbers: tokens, loss, gradient norm
