"""The weights a run starts from, or that are evaluated."""

from __future__ import annotations

from nemo_pi.arch.summary import CheckpointSummary
from nemo_pi.checkpoint.hf_import import load_huggingface
from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.parallel import groups
from nemo_pi.training.engine import MegatronEngine
from nemo_pi.training.state import load_weights


def load_initial_weights(engine: MegatronEngine, run: ResolvedRun) -> None:
    """Fills the engine from the run's checkpoint, of either kind; keeps random weights without one."""
    if run.checkpoint is not None:
        load_checkpoint_weights(engine, run.checkpoint)


def load_checkpoint_weights(engine: MegatronEngine, checkpoint: CheckpointSummary) -> None:
    """Fills the engine, at whatever layout it has, from a checkpoint of either kind; all ranks call it."""
    if checkpoint.kind == "huggingface":
        load_huggingface(
            engine.chunks,
            checkpoint.path,
            engine.settings.shape,
            tp_rank=groups.tensor_rank(),
            tp_size=groups.tensor_size(),
            extension=engine.settings.extension,
        )
    else:
        load_weights(engine, checkpoint.path)
