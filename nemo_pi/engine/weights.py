"""Weights between checkpoints and an engine, whatever its layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nemo_pi.checkpoint.base import check_base
from nemo_pi.checkpoint.collective import together
from nemo_pi.checkpoint.hf.gather import ModelGroups
from nemo_pi.checkpoint.hf.load import load_huggingface
from nemo_pi.checkpoint.hf.peft import export_peft
from nemo_pi.checkpoint.hf.save import export_huggingface
from nemo_pi.checkpoint.summary import CheckpointSummary, read_base
from nemo_pi.engine.engine import MegatronEngine
from nemo_pi.engine.state import load_merged, load_weights
from nemo_pi.families.export import AUTO
from nemo_pi.parallel import groups


def load_checkpoint_weights(engine: MegatronEngine, checkpoint: CheckpointSummary | None) -> None:
    """Fills the engine from a checkpoint of either kind; None keeps random weights. All ranks call it.

    Adapters are merged into the weights of their base. The engine's own begin anew.

    Raises:
        CheckpointError: it, or the base of its adapters, is not what it was.
    """
    if checkpoint is None:
        return
    if checkpoint.adapter is not None:
        base = together(str(checkpoint.path), lambda: read_base(checkpoint), None)
        check_base(checkpoint.adapter, base.path, checkpoint.path)
        load_checkpoint_weights(engine, base)
        load_merged(engine, checkpoint.path, checkpoint.adapter.lora)
    elif checkpoint.kind == "huggingface":
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


def export_adapters(
    engine: MegatronEngine,
    folder: Path,
    *,
    base_path: Path,
    source_config: dict[str, Any] | None,
    tokenizer_path: str | Path | None,
    overwrite: bool,
) -> None:
    """Writes a folder for `peft` of the engine's adapters; all ranks call it together.

    Arguments and errors are export_peft's, without those that the engine knows itself.
    """
    engine.gather_weights()
    lora = engine.settings.build.lora
    assert lora is not None, "an engine without adapters"
    export_peft(
        engine.chunks,
        engine.settings.shape,
        engine.settings.extension,
        folder,
        lora=lora,
        base_path=base_path,
        source_config=source_config,
        tokenizer_path=tokenizer_path,
        groups=ModelGroups(tensor=groups.tensor_group(), pipeline=groups.pipeline_group()),
        replica_rank=groups.replica_rank(),
        overwrite=overwrite,
    )
