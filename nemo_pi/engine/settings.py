"""What an engine is built from. Nothing here imports Megatron: a plan of a run holds these objects, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from nemo_pi.families.shape import ModelShape
from nemo_pi.model.backends import Workload, workload
from nemo_pi.model.options import BuildOptions
from nemo_pi.parallel.layout import ParallelLayout
from nemo_pi.rope.spec import ContextExtension

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "fp8": torch.uint8}
"""Dtypes of the optimizer's tensors by Megatron's names."""


@dataclass(frozen=True)
class AdamSettings:
    """AdamW as in the Position Interpolation paper (arXiv 2306.15595, section 3.1) unless told otherwise.

    Fields are those of Megatron's OptimizerConfig, under its names.
    """

    lr: float = 2e-5
    """Peak learning rate."""
    adam_beta1: float = 0.9
    """Decay rate of the mean of gradients."""
    adam_beta2: float = 0.95
    """Decay rate of the mean of squared gradients."""
    adam_eps: float = 1e-8
    """Added to the denominator."""
    lr_multipliers: Mapping[str, float] = field(default_factory=dict)
    """Factors on the learning rate of linear layers, by their names in families.lora.LINEARS."""
    weight_decay: float = 0.0
    """Decoupled weight decay of matrices; vectors (norms) never decay."""
    clip_grad: float = 1.0
    """Largest global gradient norm; 0 turns clipping off."""
    use_distributed_optimizer: bool = False
    """Whether optimizer states are split over the data-parallel ranks, be it one; checkpoints of the two
    kinds differ."""
    megatron: Mapping[str, Any] = field(default_factory=dict)
    """Further options of OptimizerConfig."""


@dataclass(frozen=True)
class EngineSettings:
    """What an engine is built from; all of it has been validated before."""

    shape: ModelShape
    """Sizes of the model."""
    extension: ContextExtension
    """How positions are made."""
    layout: ParallelLayout
    """How the ranks are divided."""
    micro_batch_size: int
    """Samples of one forward pass of one data-parallel rank."""
    build: BuildOptions = field(default_factory=BuildOptions)
    """Dtype, kernels, loss and recomputation."""
    optim: AdamSettings = field(default_factory=AdamSettings)
    """The optimizer."""
    ddp: Mapping[str, Any] = field(default_factory=dict)
    """Options of Megatron's DistributedDataParallelConfig under its own names; they win over the engine's."""
    length: int | None = None
    """Tokens of a row, for which backends are chosen; None: the target window."""
    rotary_length: int | None = None
    """Tokens that methods which depend on a length reckon with; None: those that a micro-batch reads."""

    def workload(self) -> Workload:
        """What backends are chosen for."""
        return workload(
            self.shape,
            self.extension,
            self.layout,
            self.build,
            micro_batch_size=self.micro_batch_size,
            length=self.length,
        )
