"""Weights between checkpoints and an engine, whatever its layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nemo_pi.checkpoint.hf.gather import ModelGroups
from nemo_pi.checkpoint.hf.load import load_huggingface
from nemo_pi.checkpoint.hf.save import export_huggingface
from nemo_pi.checkpoint.summary import CheckpointSummary
from nemo_pi.engine.engine import MegatronEngine
from nemo_pi.engine.state import load_weights
from nemo_pi.families.export import AUTO
from nemo_pi.parallel import groups


def load_checkpoint_weights(engine: MegatronEngine, checkpoint: CheckpointSummary | None) -> None:
    """Fills the engine from a checkpoint of either kind; None keeps random weights. All ranks call it."""
    if checkpoint is None:
        return
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


def export_weights(
    engine: MegatronEngine,
    folder: Path,
    *,
    source_config: dict[str, Any] | None,
    tokenizer_path: str | Path | None,
    dtype: str | None,
    architecture: str = AUTO,
    overwrite: bool,
) -> None:
    """Writes a Hugging Face folder of the engine's model; all ranks call it together.

    Arguments and errors are export_huggingface's, without those that the engine knows itself.
    """
    engine.gather_weights()
    export_huggingface(
        engine.chunks,
        engine.settings.shape,
        engine.settings.extension,
        folder,
        source_config=source_config,
        tokenizer_path=tokenizer_path,
        dtype=dtype,
        architecture=architecture,
        groups=ModelGroups(tensor=groups.tensor_group(), pipeline=groups.pipeline_group()),
        replica_rank=groups.replica_rank(),
        overwrite=overwrite,
    )
