"""The trained weights as a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nemo.utils import logging

from nemo_pi.checkpoint.hf_export import export_huggingface
from nemo_pi.checkpoint.hf_gather import ModelGroups
from nemo_pi.checkpoint.summary import read_source_config
from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.parallel import groups
from nemo_pi.training.engine import MegatronEngine


def export_engine(engine: MegatronEngine, run: ResolvedRun, folder: Path, *, overwrite: bool = False) -> Path:
    """Writes the engine's weights to `folder`; all ranks call it together.

    The scaling is written in Hugging Face's own terms, the tokenizer and the other fields of the
    checkpoint's config.json travel along.
    """
    tokenizer = None
    if run.tokenizer is not None and run.tokenizer.library == "huggingface":
        tokenizer = run.tokenizer.model
    export_weights(
        engine,
        folder,
        source_config=None if run.checkpoint is None else read_source_config(run.checkpoint.path),
        tokenizer_path=tokenizer,
        dtype=run.export.dtype,
        overwrite=overwrite,
    )
    logging.info(f"Wrote the Hugging Face folder {folder}")
    return folder


def export_weights(
    engine: MegatronEngine,
    folder: Path,
    *,
    source_config: dict[str, Any] | None,
    tokenizer_path: str | Path | None,
    dtype: str | None,
    overwrite: bool,
) -> None:
    """export_huggingface with everything that the engine knows of itself; all ranks call it together."""
    export_huggingface(
        engine.chunks,
        engine.settings.shape,
        engine.settings.extension,
        folder,
        source_config=source_config,
        tokenizer_path=tokenizer_path,
        dtype=dtype,
        groups=ModelGroups(tensor=groups.tensor_group(), pipeline=groups.pipeline_group()),
        replica_rank=groups.replica_rank(),
        overwrite=overwrite,
    )


def export_model(engine: MegatronEngine, run: ResolvedRun) -> Path | None:
    """The export that the YAML asks for (model.export.hf_path), if any."""
    if run.export.hf_path is None:
        return None
    return export_engine(engine, run, Path(run.export.hf_path))
