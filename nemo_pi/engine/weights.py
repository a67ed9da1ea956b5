"""A checkpoint's weights into an engine, whatever kind it is of."""

from __future__ import annotations

from nemo_pi.checkpoint.hf.load import load_huggingface
from nemo_pi.checkpoint.summary import CheckpointSummary
from nemo_pi.engine.engine import MegatronEngine
from nemo_pi.engine.state import load_weights
from nemo_pi.parallel import groups


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
