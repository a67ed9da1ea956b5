"""The trained weights as a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nemo_pi.checkpoint.hf.gather import ModelGroups
from nemo_pi.checkpoint.hf.save import export_huggingface
from nemo_pi.engine.engine import MegatronEngine
from nemo_pi.parallel import groups


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
