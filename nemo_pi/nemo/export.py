"""The Hugging Face folders that a run leaves."""

from __future__ import annotations

import logging
from pathlib import Path

from nemo_pi.checkpoint.summary import read_source_config
from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.engine.engine import MegatronEngine
from nemo_pi.engine.weights import export_adapters, export_weights
from nemo_pi.families.export import export_form
from nemo_pi.parallel import launcher

logger = logging.getLogger(__name__)


def export_engine(engine: MegatronEngine, run: ResolvedRun, folder: Path, *, overwrite: bool = False) -> Path:
    """Writes the engine's weights to `folder`; all ranks call it together.

    The scaling is written in Hugging Face's own terms, the tokenizer and the other fields of the
    checkpoint's config.json travel along.
    """
    export_weights(
        engine,
        folder,
        source_config=None if run.checkpoint is None else read_source_config(run.checkpoint.path),
        tokenizer_path=None if run.tokenizer is None else run.tokenizer.files,
        dtype=run.export.dtype,
        architecture=run.export.architecture,
        overwrite=overwrite,
    )
    if launcher.is_global_zero():
        form = export_form(run.shape, run.extension, run.export.architecture)
        logger.info(f"Wrote the Hugging Face folder {folder}" + (f", {form.describe()}" if form.why else ""))
    return folder


def export_engine_adapters(engine: MegatronEngine, run: ResolvedRun, folder: Path) -> Path:
    """Writes the engine's adapters to `folder` as `peft` loads them; all ranks call it together."""
    base = run.checkpoint
    assert base is not None, "adapters have a base"
    export_adapters(
        engine,
        folder,
        base_path=base.path.resolve(),
        source_config=read_source_config(base.path),
        tokenizer_path=None if run.tokenizer is None else run.tokenizer.files,
        overwrite=False,
    )
    if launcher.is_global_zero():
        logger.info(f"Wrote adapters for peft, beside the scaled config.json of their base: {folder}")
    return folder
