"""What a checkpoint says of itself before any of its weights is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nemo_pi.arch.shape import ModelShape
from nemo_pi.rope.spec import ContextExtension


@dataclass(frozen=True)
class CheckpointSummary:
    """The facts a run plan needs of the checkpoint it starts from."""

    kind: str
    """`huggingface` (a folder with config.json and safetensors) or `distributed` (Megatron's format)."""
    path: Path
    """Where it was found."""
    shape: ModelShape
    """Sizes of the model."""
    extension: ContextExtension
    """How its positions are made; method `none` unless it has been extended before."""
    window_source: str
    """Where the original window was read, for the printed plan (file and key)."""
    tokenizer_path: Path | None = None
    """Folder with tokenizer files, if the checkpoint carries them."""
    dtype: str = "float32"
    """Storage dtype of the weights."""
    global_step: int = 0
    """Optimizer steps behind it (0 for a Hugging Face folder)."""
    consumed_samples: int = 0
    """Training samples behind it (0 for a Hugging Face folder)."""
