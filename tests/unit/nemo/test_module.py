"""The NeMo model under Lightning: what it logs, counts, refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from nemo_pi.engine.optimizer import AdamSettings
from nemo_pi.errors import ConfigError, TrainingError
from nemo_pi.nemo.module import ContextExtensionModel
from nemo_pi.nemo.settings import self_contained_model_config
from nemo_pi.parallel.layout import ParallelLayout
from tests.unit.config.builders import changed
from tests.unit.engine.loops import PlainLoop
from tests.unit.model.models import transformers_model
from tests.unit.nemo.runs import fit, resolved

pytestmark = pytest.mark.usefixtures("one_rank")


class Recorder(Callback):
    """What is logged after every step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.batches: list[dict[str, torch.Tensor]] = []
        self.rates: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.steps.append({key: float(value) for key, value in trainer.callback_metrics.items()})
        self.batches.append(batch)
        self.rates.append(pl_module.engine.optimizer.param_groups[0]["lr"])


def test_losses_equal_a_plain_loop_and_names_are_nemos(inputs: Path, tmp_path: Path) -> None:
    """Unscaled, so that the plain loop's model needs no scaling either."""
    changes = {"model__max_position_embeddings": 64, "model__optim__eps": 1e-3, "trainer__max_steps": 3}
    run, recorder = resolved(inputs, tmp_path, **changes), Recorder()
    model, trainer = fit(run, recorder)
    assert trainer.global_step == 3 and model.consumed_samples == 12

    optim = run.optim
    loop = PlainLoop(transformers_model(), AdamSettings(lr=optim.lr, adam_eps=1e-3, clip_grad=1.0))
    for number, (logged, batch) in enumerate(zip(recorder.steps, recorder.batches, strict=True)):
        loss, norm = loop.step(batch, optim.lr)
        assert logged["reduced_train_loss"] == pytest.approx(loss, rel=1e-5)
        assert logged["grad_norm"] == pytest.approx(norm, rel=1e-4)
        assert logged["lr"] == pytest.approx(optim.lr)
        assert logged["consumed_samples"] == 4 * (number + 1)
        assert logged["tokens_per_second_per_gpu"] > 0 and logged["train_step_seconds"] > 0
        speed = logged["tflops_per_gpu_causal"] * 1e12 / logged["tokens_per_second_per_gpu"]
        assert speed > 6 * 50_000  # operations per token: six per weight, and attention


def test_validation_logs_the_mean_loss(inputs: Path, tmp_path: Path) -> None:
    changes = {
        "trainer__limit_val_batches": 1,
        "model__max_position_embeddings": 64,
        "model__optim__lr": 1e-12,
    }
    run = resolved(inputs, tmp_path, **changes)
    model, trainer = fit(run, limit_val_batches=1, val_check_interval=1, max_steps=1)
    (batch,) = model.val_dataloader()
    with torch.no_grad():
        expected = PlainLoop(transformers_model()).loss(batch).item()
    assert float(trainer.callback_metrics["val_loss"]) == pytest.approx(expected, rel=1e-5)


class Poison(Callback):
    """Makes the second step's loss infinite."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.before = {name: p.detach().clone() for name, p in pl_module.megatron.named_parameters()}
        if batch_idx == 1:
            pl_module.engine.chunks[0].decoder.final_layernorm.weight.data.fill_(float("inf"))


def test_a_loss_that_is_no_number_stops_before_the_update(inputs: Path, tmp_path: Path) -> None:
    poison = Poison()
    run = resolved(inputs, tmp_path)
    with pytest.raises(TrainingError, match="step 2: required a finite loss"):
        fit(run, poison)


class Gradients(Callback):
    """Spoils the second step's gradients after its loss is known to be sound."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1:
            weight = pl_module.engine.chunks[0].decoder.final_layernorm.weight
            weight.register_hook(lambda gradient: gradient * float("inf"))


def test_a_gradient_that_is_no_number_stops_before_a_checkpoint(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="step 2: required a finite gradient norm"):
        fit(resolved(inputs, tmp_path), Gradients())


def test_the_learning_rate_follows_the_schedule(inputs: Path, tmp_path: Path) -> None:
    changes = {"model__optim__sched__warmup_steps": 2, "model__optim__sched__warmup_start_fraction": 0.5}
    recorder = Recorder()
    fit(resolved(inputs, tmp_path, **changes), recorder)
    assert [step["lr"] for step in recorder.steps] == pytest.approx([5e-4, 7.5e-4, 1e-3])
    assert recorder.rates == pytest.approx([5e-4, 7.5e-4, 1e-3])


def test_a_split_model_does_not_fit_into_a_nemo_file(inputs: Path, tmp_path: Path) -> None:
    run = changed(resolved(inputs, tmp_path), parallel=ParallelLayout(tp=2))
    model = ContextExtensionModel(self_contained_model_config(run), None, run=run)
    with pytest.raises(ConfigError, match="save_to"):
        model.save_to(str(tmp_path / "model.nemo"))


def test_a_nemo_file_restores_without_its_checkpoint(inputs: Path, tmp_path: Path) -> None:
    run = resolved(inputs, tmp_path)
    model, _ = fit(run, max_steps=1)
    model.save_to(str(tmp_path / "model.nemo"))
    restored = ContextExtensionModel.restore_from(str(tmp_path / "model.nemo"), map_location="cpu")
    assert (restored.run.shape, restored.run.extension) == (run.shape, run.extension)
    kept = dict(model.megatron.named_parameters())
    for name, weight in restored.megatron.named_parameters():
        assert torch.equal(weight, kept[name]), name
