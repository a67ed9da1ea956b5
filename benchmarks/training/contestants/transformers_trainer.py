"""transformers' own Trainer, logging and saving switched off."""

from __future__ import annotations

import tempfile
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from benchmarks.training.contestants.transformers_loop import inputs, load
from benchmarks.training.job import Job
from benchmarks.training.pacer import Pacer

# No epoch ends during a race.
_SAMPLES = 1_000_000


class OneSample(Dataset[dict[str, Tensor]]):
    """The one sample, over and over."""

    def __init__(self, job: Job) -> None:
        self.item = {key: value[0].cpu() for key, value in inputs(job).items()}

    def __len__(self) -> int:
        return _SAMPLES

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.item


class LossKeepingTrainer(Trainer):
    """A Trainer that remembers the loss of its last step, which callbacks are not told."""

    last_loss = float("nan")

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """As the Trainer's."""
        loss: Tensor = super().training_step(*args, **kwargs)
        self.last_loss = loss.item()
        return loss


class PacedSteps(TrainerCallback):
    """Hands every finished step to the pacer and ends the run when it says so."""

    def __init__(self, pacer: Pacer) -> None:
        self.pacer = pacer
        self.trainer: LossKeepingTrainer | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Loaded: waits for the first step."""
        control.should_training_stop = not self.pacer.ready()
        return control

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Waits for the next one."""
        assert self.trainer is not None
        control.should_training_stop = not self.pacer.stepped(self.trainer.last_loss)
        return control


def arguments(job: Job, folder: str) -> TrainingArguments:
    """The job in the Trainer's words."""
    return TrainingArguments(
        output_dir=folder,
        max_steps=_SAMPLES,
        per_device_train_batch_size=1,
        learning_rate=job.lr,
        lr_scheduler_type="constant",
        adam_beta1=job.betas[0],
        adam_beta2=job.betas[1],
        adam_epsilon=job.eps,
        weight_decay=0.0,
        max_grad_norm=job.clip_grad,
        optim="adamw_torch_fused",
        bf16=job.on_gpu,
        gradient_checkpointing=job.recompute,
        gradient_checkpointing_kwargs={"use_reentrant": False} if job.recompute else None,
        torch_compile=job.compiled,
        use_cpu=not job.on_gpu,
        remove_unused_columns=False,
        dataloader_pin_memory=job.on_gpu,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def run(job: Job, pacer: Pacer) -> None:
    """Races."""
    callback = PacedSteps(pacer)
    with tempfile.TemporaryDirectory() as folder:
        trainer = LossKeepingTrainer(
            model=load(job),
            args=arguments(job, folder),
            train_dataset=OneSample(job),
            callbacks=[callback],
        )
        callback.trainer = trainer
        trainer.train()
