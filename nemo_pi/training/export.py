"""The trained weights as a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

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
    source = None if run.checkpoint is None else read_source_config(run.checkpoint.path)
    tokenizer = None
    if run.tokenizer is not None and run.tokenizer.library == "huggingface":
        tokenizer = run.tokenizer.model
    export_huggingface(
        engine.chunks,
        run.shape,
        run.extension,
        folder,
        source_config=source,
        tokenizer_path=tokenizer,
        dtype=run.export.dtype,
        groups=ModelGroups(tensor=groups.tensor_group(), pipeline=groups.pipeline_group()),
        replica_rank=groups.replica_rank(),
        overwrite=overwrite,
    )
    logging.info(f"Wrote the Hugging Face folder {folder}")
    return folder


def export_model(engine: MegatronEngine, run: ResolvedRun) -> Path | None:
    """The export that the YAML asks for (model.export.hf_path), if any."""
    if run.export.hf_path is None:
        return None
    return export_engine(engine, run, Path(run.export.hf_path))
