"""The strategy forms Megatron's groups and leaves gradients to Megatron."""

from __future__ import annotations

from pathlib import Path

import pytest
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel
from torch.nn.parallel import DistributedDataParallel as TorchDDP

from nemo_pi.parallel import groups
from tests.unit.nemo.runs import fit, resolved


@pytest.mark.usefixtures("one_rank")
def test_groups_come_up_and_weights_are_wrapped_once(inputs: Path, tmp_path: Path) -> None:
    parallel_state.destroy_model_parallel()
    model, trainer = fit(resolved(inputs, tmp_path), max_steps=1)
    assert parallel_state.model_parallel_is_initialized() and groups.data_size() == 1
    assert trainer.strategy.model is model  # Lightning's own would be a TorchDDP around it
    assert not any(isinstance(module, TorchDDP) for module in model.modules())
    assert model.engine is not None
    assert all(isinstance(module, DistributedDataParallel) for module in model.engine.modules)
    # What follows training (export) needs weights and groups as they are.
    assert {parameter.device.type for parameter in model.parameters()} == {groups.device().type}
