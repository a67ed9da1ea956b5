"""The optimizer as it was asked for, and Lightning counting its steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from nemo_pi.engine.optimizer import AdamSettings
from nemo_pi.families.registry import family_of
from nemo_pi.model.build import BuildOptions
from nemo_pi.nemo.optimizer_adapter import LightningOptimizerAdapter
from nemo_pi.parallel.cpu_shim import cpu_shim
from tests.unit.engine.loops import engine_of, random_batch
from tests.unit.model.models import SHAPE

SETTINGS = AdamSettings(lr=1e-3, adam_beta1=0.8, adam_beta2=0.99, adam_eps=1e-5, weight_decay=0.2)

pytestmark = pytest.mark.usefixtures("one_rank")


def test_hyperparameters_arrive() -> None:
    engine = engine_of(optim=SETTINGS)
    groups = engine.optimizer.param_groups
    assert {(group["betas"], group["eps"]) for group in groups} == {((0.8, 0.99), 1e-5)}
    decays = {}
    for group in groups:
        for parameter in group["params"]:
            decays[parameter.dim()] = group["weight_decay"]
    assert decays == {1: 0.0, 2: 0.2}  # norms do not decay
    engine.set_lr(3e-4)
    assert {group["lr"] for group in groups} == {3e-4}


def test_learning_rates_of_some_layers_are_multiplied() -> None:
    factors = {"self_attention.linear_qkv": 10.0, "mlp.linear_fc2": 0.5}
    engine = engine_of(optim=replace(SETTINGS, lr_multipliers=factors, weight_decay=0.0, adam_eps=1e-12))
    before = {name: weight.detach().clone() for name, weight in engine.chunks[0].named_parameters()}
    engine.set_lr(1e-4)
    engine.forward_backward(random_batch())
    engine.step()
    for name, weight in engine.chunks[0].named_parameters():
        factor = next((factor for layer, factor in factors.items() if f".{layer}." in name), 1.0)
        # Adam's first step is as long as the learning rate wherever there is a gradient.
        moved = float((weight.detach() - before[name]).abs().max())
        assert moved == pytest.approx(1e-4 * factor, rel=0.02), name


def test_the_update_is_torchs_fused_one() -> None:
    assert all(group["fused"] for group in engine_of().optimizer.param_groups)


class Counted(LightningModule):
    """Steps the adapter by hand, as the real module does."""

    def __init__(self, adapter: LightningOptimizerAdapter) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.adapter = adapter
        self.seen: list[tuple[int, float]] = []

    def configure_optimizers(self) -> Any:
        return self.adapter

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.seen.append((self.trainer.global_step, self.optimizers().param_groups[0]["lr"]))
        self.optimizers().step()


def test_lightning_counts_its_steps_and_sees_its_rates() -> None:
    engine, updates = engine_of(optim=SETTINGS), []
    adapter = LightningOptimizerAdapter(engine.optimizer, lambda: updates.append(1))
    engine.set_lr(0.25)
    module = Counted(adapter)
    trainer = Trainer(
        max_steps=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(torch.zeros(10, 1)))
    assert trainer.global_step == len(updates) == 3
    assert module.seen == [(0, 0.25), (1, 0.25), (2, 0.25)]


def test_the_closure_runs_before_the_update() -> None:
    order: list[str] = []
    adapter = LightningOptimizerAdapter(engine_of().optimizer, lambda: order.append("update"))
    adapter.step(lambda: order.append("closure"))
    adapter.step()
    assert order == ["closure", "update", "update"]


def test_the_adapter_owns_no_state() -> None:
    engine = engine_of()
    engine.chunks[0].output_layer.weight.main_grad.fill_(1.0)
    adapter = LightningOptimizerAdapter(engine.optimizer, lambda: None)
    adapter.step()
    adapter.zero_grad()
    assert not adapter.state
    assert engine.chunks[0].output_layer.weight.main_grad.eq(1.0).all()


@pytest.mark.parametrize("distributed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_held_once(distributed: bool, dtype: torch.dtype) -> None:
    """What the update reads lies in the buffer that the backward pass adds to, and nowhere else."""
    optim = replace(SETTINGS, use_distributed_optimizer=distributed)
    engine = engine_of(optim=optim, build=BuildOptions(params_dtype=dtype))
    engine.forward_backward(random_batch())
    assert all(parameter.grad is None for parameter in engine.chunks[0].parameters())
    buffers = {buffer.grad_data.untyped_storage().data_ptr() for buffer in engine.modules[0].buffers}
    with cpu_shim():
        engine.optimizer.prepare_grads()
    updated = [p for group in engine.optimizer.param_groups for p in group["params"]]
    assert sum(p.numel() for p in updated) == family_of(SHAPE).num_parameters(SHAPE)
    assert {p.grad.untyped_storage().data_ptr() for p in updated} == buffers


@pytest.mark.parametrize("distributed", [False, True])
def test_fp32_weights_have_no_second_copy(distributed: bool) -> None:
    """The update works on the model's own weights."""
    engine = engine_of(optim=replace(SETTINGS, use_distributed_optimizer=distributed))
    own = {p.untyped_storage().data_ptr() for p in engine.chunks[0].parameters()}
    updated = {
        p.untyped_storage().data_ptr() for group in engine.optimizer.param_groups for p in group["params"]
    }
    assert updated <= own
