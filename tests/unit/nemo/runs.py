"""A small run: a tiny Llama from 64 to 256 tokens on random tokens, as a YAML would describe it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder
from omegaconf import DictConfig, OmegaConf

from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.config.load import resolve
from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.nemo.module import ContextExtensionModel
from nemo_pi.nemo.settings import self_contained_model_config
from nemo_pi.nemo.strategy import MegatronStrategy
from nemo_pi.parallel.layout import ParallelLayout
from tests.unit.model.models import SHAPE, WINDOW, transformers_model

LENGTH = 32
"""Training length, in tokens."""


def write_tokens(prefix: Path, documents: int = 40, vocab_size: int = SHAPE.vocab_size) -> Path:
    """An indexed corpus of random documents, by megatron-core's own builder."""
    generator = torch.Generator().manual_seed(4)
    builder = IndexedDatasetBuilder(f"{prefix}.bin")
    for number in range(documents):
        ids = torch.randint(0, vocab_size, (20 + number,), generator=generator)
        builder.add_document(ids, [ids.numel()])
    builder.finalize(f"{prefix}.idx")
    return prefix


def make_inputs(folder: Path) -> Path:
    """`folder` with a start model and data in it."""
    folder.mkdir(parents=True, exist_ok=True)
    transformers_model().save_pretrained(folder / "start")
    write_tokens(folder / "tokens")
    return folder


def configuration(inputs: Path, logs: Path, **changes: Any) -> DictConfig:
    """A run over `inputs` that writes to `logs`.

    Args:
        changes: dotted keys with __ for the dot, such as trainer__max_steps=2.
    """
    cfg = OmegaConf.create(
        {
            "name": "tiny",
            "restore_from_path": str(inputs / "start"),
            "trainer": {
                "accelerator": "cpu",
                "max_steps": 4,
                "gradient_clip_val": 1.0,
                "log_every_n_steps": 1,
                "limit_val_batches": 0,
                "enable_progress_bar": False,
            },
            "exp_manager": {
                "explicit_log_dir": str(logs),
                "create_tensorboard_logger": False,
                "resume_if_exists": True,
                "checkpoint_callback_params": {"every_n_train_steps": 0, "save_top_k": -1},
            },
            "model": {
                "max_position_embeddings": 4 * WINDOW,
                "encoder_seq_length": LENGTH,
                "micro_batch_size": 1,
                "global_batch_size": 4,
                "optim": {"lr": 1e-3, "sched": {"warmup_steps": 0}},
                "data": {"data_prefix": [str(inputs / "tokens")], "splits_string": "8,2,0"},
            },
        }
    )
    for key, value in changes.items():
        OmegaConf.update(cfg, key.replace("__", "."), value, merge=False, force_add=True)
    return cfg


def resolved(inputs: Path, logs: Path, **changes: Any) -> ResolvedRun:
    """The same, validated."""
    cfg = configuration(inputs, logs, **changes)
    path = cfg.restore_from_path
    return resolve(cfg, world_size=1, summary=None if path is None else read_summary(path))


def fit(model_of: ResolvedRun, *callbacks: Callback, **trainer: Any) -> tuple[ContextExtensionModel, Trainer]:
    """Trains what a run describes, with Lightning alone: no exp_manager, no folders."""
    lightning = Trainer(
        **{"max_steps": 3, "limit_val_batches": 0, "num_sanity_val_steps": 0, **trainer},
        strategy=MegatronStrategy(ParallelLayout(), seed=1234),
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        check_val_every_n_epoch=None,
        callbacks=list(callbacks),
    )
    model = ContextExtensionModel(self_contained_model_config(model_of), lightning, run=model_of)
    lightning.fit(model)
    return model, lightning
