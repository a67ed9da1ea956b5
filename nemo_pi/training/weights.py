"""The weights a run starts from."""

from __future__ import annotations

from nemo_pi.checkpoint.hf_import import load_huggingface
from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.parallel import groups
from nemo_pi.training.engine import MegatronEngine
from nemo_pi.training.state import load_weights


def load_initial_weights(engine: MegatronEngine, run: ResolvedRun) -> None:
    """Fills the engine from the run's checkpoint, of either kind; keeps random weights without one."""
    checkpoint = run.checkpoint
    if checkpoint is None:
        return
    if checkpoint.kind == "huggingface":
        load_huggingface(
            engine.chunks,
            checkpoint.path,
            run.shape,
            tp_rank=groups.tensor_rank(),
            tp_size=groups.tensor_size(),
            extension=run.extension,
        )
    else:
        load_weights(engine, checkpoint.path)
