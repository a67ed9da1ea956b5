"""The validated run: every number a trainer needs, derived once, frozen and typed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from nemo_pi.checkpoint.summary import CheckpointSummary
from nemo_pi.config.evaluation import EvaluationSettings
from nemo_pi.config.megatron import keys_of
from nemo_pi.config.schema import RunConfig
from nemo_pi.config.sections import DataConfig, ExportConfig, OptimConfig, TokenizerConfig
from nemo_pi.engine.schedule import LearningRateSchedule
from nemo_pi.engine.settings import EngineSettings
from nemo_pi.families.shape import ModelShape
from nemo_pi.kernels.shifted_attention import NAME as SHIFTED
from nemo_pi.kernels.shifted_attention import SHARE
from nemo_pi.model.options import Recompute
from nemo_pi.parallel.layout import ParallelLayout
from nemo_pi.rope.pose_spec import PoseSpec
from nemo_pi.rope.spec import ContextExtension


@dataclass(frozen=True)
class Stage:
    """Which part of a run this is, and what lies before it; by default, a run without stages."""

    number: int = 0
    """From 0."""
    count: int = 1
    """Stages of the run."""
    first_step: int = 0
    """Optimizer steps of the stages before."""
    samples_before: int = 0
    """Samples of the stages before."""
    first_sample: int = 0
    """Sample that this stage reads first: behind what stages before have read of the same data."""
    reset_optimizer: bool = False
    """Whether Adam begins anew."""

    @property
    def title(self) -> str:
        """As people count."""
        return f"stage {self.number + 1} of {self.count}"


@dataclass(frozen=True)
class ResolvedRun:
    """What a run, or a stage of one, does: every value checked against the others and the checkpoint."""

    name: str
    """Name of the run."""
    dry_run: bool
    """Stop after the plan."""
    config: RunConfig
    """The merged configuration as given; prefer the typed fields below."""
    checkpoint: CheckpointSummary | None
    """What the run starts from; None starts from random weights."""
    checkpoint_open: bool
    """Only in a dry run: the YAML demands a checkpoint (`???`) and none was given yet."""
    window_source: str
    """Where the original window was read."""
    training_length: int
    """Tokens of one training sample."""
    pose: PoseSpec | None
    """How positions skip through the target window; None: they run on."""
    engine: EngineSettings
    """What the engine is built from: shape, positions, layout, kernels, loss, recomputation, optimizer."""
    schedule: LearningRateSchedule
    """The learning rate over the run's steps."""
    global_batch_size: int
    """Samples of one optimizer step over all ranks."""
    num_micro_batches: int
    """Forward passes of one data-parallel rank in one optimizer step."""
    max_steps: int
    """Optimizer steps of the run, or of this stage of it."""
    precision: str
    """Lightning's canonical name: 32-true, bf16-mixed, bf16-true, 16-mixed or 16-true."""
    optim: OptimConfig
    """Optimizer and schedule as checked, from which the engine's and the schedule's settings are made."""
    data: DataConfig
    """Data; data.seed is a number."""
    tokenizer: TokenizerConfig | None
    """Tokenizer with library and model filled in; None where neither YAML nor checkpoint has one."""
    evaluation: EvaluationSettings | None
    """What is measured while it trains; None: nothing."""
    export: ExportConfig
    """Export at the end of the run; export.dtype is a name where hf_path is given."""
    seed: int
    """Seed of initial weights."""
    skip_bad_steps: int
    """Steps that may be left out because their loss or gradient is no number, or far out of line."""
    timeout_minutes: float
    """How long ranks wait for one that hangs."""
    transformer_engine: bool | None
    """True demands Transformer Engine's layers, False forbids them, None takes them where they are: what was
    asked for, where `engine.build` holds what this machine makes of it."""
    trainer: dict[str, Any]
    """Arguments for lightning.Trainer: checked names, canonical precision; gradient_clip_val is left out
    because Megatron's optimizer clips and Lightning refuses it under manual optimization."""
    exp_manager: dict[str, Any]
    """Arguments for NeMo's exp_manager: checked names; values as given."""
    stage: Stage = Stage()
    """Which of the run's stages this is."""

    @property
    def last_step(self) -> int:
        """Optimizer steps of the whole run when this stage is done."""
        return self.stage.first_step + self.max_steps

    @property
    def shape(self) -> ModelShape:
        """Sizes of the model."""
        return self.engine.shape

    @property
    def extension(self) -> ContextExtension:
        """How positions are made: windows, method, factor, rotary dimension and base."""
        return self.engine.extension

    @property
    def parallel(self) -> ParallelLayout:
        """Layout over ranks."""
        return self.engine.layout

    @property
    def micro_batch_size(self) -> int:
        """Samples of one forward pass of one data-parallel rank."""
        return self.engine.micro_batch_size

    @property
    def recompute(self) -> Recompute:
        """Activation recomputation."""
        return self.engine.build.recompute

    @property
    def compute_dtype(self) -> torch.dtype:
        """Dtype of weights and activations; 16-bit weights have fp32 main copies in the optimizer."""
        return self.engine.build.params_dtype

    @property
    def attention_group(self) -> int | None:
        """Tokens of a group that attention is confined to in training; None: there are none."""
        if self.engine.build.backends.attention != SHIFTED:
            return None
        return self.engine.build.attention_group or self.training_length // SHARE

    @property
    def gradient_clip_val(self) -> float | None:
        """Largest norm of the gradient; None (never 0) does not clip."""
        return self.engine.optim.clip_grad or None

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step over all ranks."""
        return self.global_batch_size * self.training_length

    @property
    def warmup_start_lr(self) -> float:
        """Learning rate of the first warm-up step."""
        return self.schedule.lr * self.schedule.warmup_start_fraction

    def megatron_options(self) -> dict[str, Any]:
        """{key of the YAML: value} of the options that Megatron takes as they stand and that are not null."""
        options = {
            "transformer": self.engine.build.megatron,
            "ddp": self.engine.ddp,
            "optimizer": self.engine.optim.megatron,
        }
        return {
            keys_of(self.config.model, place).get(option, option): value
            for place, given in options.items()
            for option, value in given.items()
        }

    def data_mapping(self) -> dict[str, Any]:
        """The data section as a plain mapping."""
        return asdict(self.data)

    def to_dict(self) -> dict[str, Any]:
        """The merged configuration as plain values, to log or to save beside the weights."""
        return asdict(self.config)
