"""Whether layers are Transformer Engine's. Nothing here imports Megatron or Transformer Engine."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from nemo_pi.errors import BackendUnavailableError


def transformer_engine_available() -> bool:
    """Whether Transformer Engine is installed and has a GPU to run on."""
    return torch.cuda.is_available() and find_spec("transformer_engine") is not None


def resolve_transformer_engine(request: str | bool) -> bool:
    """Turns model.transformer_engine (auto, true, false) into yes or no.

    Raises:
        BackendUnavailableError: it was asked for by name and cannot run here.
    """
    available = transformer_engine_available()
    if str(request).lower() == "auto":
        return available
    wanted = str(request).lower() == "true"
    if wanted and not available:
        raise BackendUnavailableError(
            "model.transformer_engine",
            required="the transformer_engine package and a CUDA device",
            given="neither or only one of them on this machine",
            fix="install it (pip install 'nemo_pi[te]' on a GPU machine) or set transformer_engine: auto",
        )
    return wanted
