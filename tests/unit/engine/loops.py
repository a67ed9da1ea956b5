"""A plain training loop of torch and transformers, to hold Megatron's machinery against; and its batches."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from nemo_pi.checkpoint.hf.load import load_huggingface
from nemo_pi.engine.engine import EngineSettings, MegatronEngine
from nemo_pi.engine.optimizer import AdamSettings
from nemo_pi.model.build import BuildOptions
from nemo_pi.parallel.layout import ParallelLayout
from tests.unit.model.models import SHAPE, causal_logits, plain

Batch = dict[str, Tensor]

# An epsilon near the gradients' size: without it Adam's first steps are signs, and rounding flips them.
SMOOTH = AdamSettings(lr=3e-3, adam_eps=1e-3, weight_decay=0.1, clip_grad=1.0)


def random_batch(rows: int = 4, length: int = 16, seed: int = 0) -> Batch:
    """Samples whose rows hold very unequal numbers of scored tokens, the first row only one."""
    generator = torch.Generator().manual_seed(seed)
    stream = torch.randint(0, SHAPE.vocab_size, (rows, length + 1), generator=generator)
    kept = torch.linspace(0.0, 1.0, rows)[:, None]
    mask_BS = (torch.rand(rows, length, generator=generator) < kept).float()
    mask_BS[:, 3] = 1.0
    return {
        "tokens": stream[:, :-1].contiguous(),
        "labels": stream[:, 1:].contiguous(),
        "loss_mask": mask_BS,
        "position_ids": torch.arange(length).expand(rows, length).contiguous(),
        "cu_seqlens": torch.tensor([[0, *[length] * length]] * rows, dtype=torch.int32),
    }


def engine_of(
    folder: Path | None = None,
    *,
    micro_batch_size: int = 1,
    optim: AdamSettings = SMOOTH,
    build: BuildOptions | None = None,
    train: bool = True,
    **settings: Any,
) -> MegatronEngine:
    """A one-rank engine of the tiny shape, with a Hugging Face folder's weights where one is given."""
    engine = MegatronEngine(
        EngineSettings(
            **{"shape": SHAPE, "extension": plain(), "layout": ParallelLayout(), **settings},
            micro_batch_size=micro_batch_size,
            optim=optim,
            build=build or BuildOptions(init_method_std=0.15),
        )
    )
    if folder is not None:
        load_huggingface(engine.chunks, folder, engine.settings.shape)
    if train:
        engine.start_training()
    return engine


def weights_of(engine: MegatronEngine) -> dict[str, Tensor]:
    """Copies of the engine's weights."""
    return {name: value.detach().clone() for name, value in engine.chunks[0].named_parameters()}


@dataclass
class PlainLoop:
    """transformers' model, torch's AdamW, the mean over all scored tokens of the global batch."""

    model: PreTrainedModel
    settings: AdamSettings = SMOOTH
    optimizer: torch.optim.AdamW = field(init=False)

    def __post_init__(self) -> None:
        matrices = [p for p in self.model.parameters() if p.dim() > 1]
        vectors = [p for p in self.model.parameters() if p.dim() == 1]
        groups = [
            {"params": matrices, "weight_decay": self.settings.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            groups,
            lr=self.settings.lr,
            betas=(self.settings.adam_beta1, self.settings.adam_beta2),
            eps=self.settings.adam_eps,
        )

    def loss(self, batch: Batch) -> Tensor:
        """The mean over scored tokens."""
        logits_BSV = causal_logits(self.model, batch["tokens"], batch["position_ids"])
        loss_BS = cross_entropy(logits_BSV.flatten(0, 1), batch["labels"].flatten(), reduction="none")
        mask = batch["loss_mask"].flatten()
        return (loss_BS * mask).sum() / mask.sum()

    def step(self, batch: Batch, lr: float) -> tuple[float, float]:
        """One update; returns the loss and the gradient's norm before clipping."""
        self.optimizer.zero_grad()
        loss = self.loss(batch)
        loss.backward()
        clip = self.settings.clip_grad or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        return loss.item(), norm.item()
