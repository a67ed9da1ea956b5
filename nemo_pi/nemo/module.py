"""The NeMo model: data, engine and logs under Lightning's loop, thin on purpose."""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader

from nemo_pi.checkpoint.base import AdapterRecord
from nemo_pi.checkpoint.summary import read_source_config
from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.engine.engine import MegatronEngine
from nemo_pi.engine.guard import StepGuard
from nemo_pi.engine.throughput import training_flops_per_token
from nemo_pi.engine.weights import load_checkpoint_weights
from nemo_pi.errors import ConfigError
from nemo_pi.families.shape import ModelShape
from nemo_pi.nemo.first_step import options_named
from nemo_pi.nemo.loaders import training_loader, validation_loader
from nemo_pi.nemo.optimizer_adapter import LightningOptimizerAdapter
from nemo_pi.nemo.restoring import SafelyRestoredModel
from nemo_pi.nemo.resuming import known_base, load_newest
from nemo_pi.nemo.settings import run_of_model_config
from nemo_pi.parallel import groups, launcher, liveness

logger = logging.getLogger(__name__)


class ContextExtensionModel(SafelyRestoredModel):
    """Trains a Megatron GPT at an extended window.

    Args:
        cfg: the model section of a run's YAML, complete enough to rebuild the model without its checkpoint.
        trainer: Lightning's trainer.
        run: the validated run; None (restoring a .nemo file) derives one from cfg.
        resume_from: distributed checkpoint of this same run to go on from.
    """

    def __init__(
        self,
        cfg: DictConfig,
        trainer: Trainer | None = None,
        run: ResolvedRun | None = None,
        resume_from: Path | None = None,
    ) -> None:
        restored = run is None
        # First: NeMo's constructor must not see a configuration that ours refuses.
        run = run_of_model_config(cfg) if run is None else run
        super().__init__(cfg, trainer)
        self.automatic_optimization = False
        self.run = run
        self.resume_from = resume_from
        self.consumed_samples = 0
        self.megatron = nn.ModuleList()
        self.engine: MegatronEngine | None = None
        checkpoint = self.run.checkpoint
        self.source_config = None if checkpoint is None else read_source_config(checkpoint.path)
        self.guard = StepGuard(self.run.skip_bad_steps)
        self.adapter_record: AdapterRecord | None = None
        """What its checkpoints say of adapters and their base, once that is loaded."""
        self._loss = self._grad_norm = 0.0
        self._has_computed = False
        if restored:
            groups.ensure_process_group()
            groups.initialize(self.run.parallel, self.run.seed)
            self._build_engine()

    @classmethod
    def shape_of(cls, config: DictConfig) -> ModelShape:
        """What the model of a .nemo file's section will be."""
        return run_of_model_config(config).shape

    # ---- building -------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Builds the Megatron model once the process groups are up, and loads its weights."""
        if self.engine is not None:
            return
        engine = self._build_engine()
        adapted = self.run.engine.build.lora is not None
        # A checkpoint of adapters does not hold the weights that they stand beside.
        if self.resume_from is None or adapted:
            with liveness.patient():
                load_checkpoint_weights(engine, self.run.checkpoint)
                if adapted:
                    self.adapter_record = known_base(self.run, self.resume_from)

    def configure_optimizers(self) -> LightningOptimizerAdapter:
        """Megatron's optimizer behind an adapter that Lightning can count."""
        engine = self._require_engine()
        with options_named(self.run, "making the optimizer"):
            engine.start_training()
        if self.resume_from is not None:
            with liveness.patient():
                self.resume_from = load_newest(self, engine, self.resume_from, self.run.stage)
        return LightningOptimizerAdapter(engine.optimizer, self._optimizer_step)

    def _build_engine(self) -> MegatronEngine:
        with options_named(self.run, "building the model"):
            self.engine = MegatronEngine(self.run.engine)
        self.megatron.extend(self.engine.chunks)
        return self.engine

    def _require_engine(self) -> MegatronEngine:
        assert self.engine is not None, "configure_model has not run"
        return self.engine

    # ---- data -----------------------------------------------------------------------------------

    def train_dataloader(self) -> DataLoader[Any]:
        """This rank's shard of each global batch, from the first sample not yet consumed."""
        return training_loader(self.run, self.consumed_samples)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Validation batches, or none."""
        return validation_loader(self.run) or []

    def setup_training_data(self, train_data_config: Any) -> None:
        """Nothing: loaders are made from the run (NeMo asks for this method)."""

    def setup_validation_data(self, val_data_config: Any) -> None:
        """Nothing: loaders are made from the run (NeMo asks for this method)."""

    @classmethod
    def list_available_models(cls) -> None:
        """No models are published."""
        return None

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leaves the batch where it is: micro-batches are moved one by one."""
        return batch

    # ---- steps ----------------------------------------------------------------------------------

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """One optimizer step over the global batch."""
        engine = self._require_engine()
        step = self.trainer.global_step + 1
        lr = self.run.schedule.at(step - 1 - self.run.stage.first_step)
        engine.set_lr(lr)
        started = time.perf_counter()
        with nullcontext() if self._has_computed else options_named(self.run, "the first training step"):
            engine.begin_step(step)
            loss = engine.forward_backward(batch)
        self._has_computed = True
        self._loss, skipped = loss, self.guard.skipped
        self.optimizers().step()
        if self.guard.skipped > skipped:
            self._say_skipped(step)
        self.consumed_samples += self.run.global_batch_size
        self._log_step(loss, lr, time.perf_counter() - started)

    def _say_skipped(self, step: int) -> None:
        if launcher.is_global_zero():
            logger.warning(
                f"step {step} is left out: loss {self._loss:.4g}, gradient norm {self._grad_norm:.4g} "
                f"({self.guard.skipped} of the {self.guard.allowed} that model.skip_bad_steps allows)"
            )

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Mean loss of one validation batch."""
        loss = self._require_engine().evaluate(batch)
        self.log("val_loss", loss, prog_bar=True, batch_size=1, sync_dist=False)

    def on_validation_epoch_end(self, sync_metrics: bool = False) -> None:
        """Nothing: val_loss is logged step by step and is the same on every rank."""

    def _optimizer_step(self) -> None:
        step = self.trainer.global_step + 1
        self._grad_norm = self._require_engine().step(lambda norm: self.guard.accepts(step, self._loss, norm))

    def _log_step(self, loss: float, lr: float, seconds: float) -> None:
        tokens_per_rank = self.run.tokens_per_step / seconds / self.run.parallel.world_size
        flops = training_flops_per_token(
            self.run.shape,
            self.run.training_length,
            frozen=self.run.engine.build.lora is not None,
            attention_span=self.run.attention_group,
        )
        on_bar = {"reduced_train_loss": loss, "lr": lr, "tokens_per_second_per_gpu": tokens_per_rank}
        rest = {
            "global_step": float(self.trainer.global_step),
            "consumed_samples": float(self.consumed_samples),
            "grad_norm": self._grad_norm,
            "train_step_seconds": seconds,
            "tflops_per_gpu_causal": tokens_per_rank * flops / 1e12,
        }
        if self.run.stage.count > 1:
            rest["stage"] = float(self.run.stage.number + 1)
        if self.guard.allowed:
            rest["skipped_steps"] = float(self.guard.skipped)
        if torch.cuda.is_available():
            rest["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        self.log_dict(on_bar, prog_bar=True, batch_size=1)
        self.log_dict(rest, batch_size=1)

    # ---- .nemo ----------------------------------------------------------------------------------

    def save_to(self, save_path: str) -> None:
        """Writes a .nemo file of an unsharded model.

        Raises:
            ConfigError: the weights are split over ranks.
        """
        if self.run.parallel.model_ranks > 1:
            raise ConfigError(
                "save_to",
                required="a model on one rank (TP 1, PP 1, CP 1)",
                given=self.run.parallel.describe(),
                fix="load the distributed checkpoint on one rank first: it opens at any layout",
            )
        super().save_to(save_path)
