"""Megatron's fused parts: on where they can be, off elsewhere, an error where one is demanded in vain.

Backends with a name of their own are chosen elsewhere (model/backends.py). Not yet run on a GPU.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch

from nemo_pi.errors import BackendUnavailableError
from nemo_pi.model.options import BuildOptions

FUSIONS = ("bias_dropout_fusion", "masked_softmax_fusion", "gradient_accumulation_fusion")
"""Options of Megatron's TransformerConfig, and keys of `model`."""
# What Megatron's linear layers demand for gradient_accumulation_fusion, Transformer Engine or not: the output
# layer is Megatron's own.
_EXTENSION = "fused_weight_gradient_mlp_cuda"


def fusions(options: BuildOptions) -> dict[str, bool]:
    """Each of FUSIONS as asked for, or on where it can be.

    Raises:
        BackendUnavailableError: one is asked for and cannot be had here.
    """
    found = {}
    for name in FUSIONS:
        asked, obstacle = options.megatron.get(name), _obstacle(name)
        if asked and obstacle is not None:
            raise BackendUnavailableError(
                f"model.{name}",
                required="what Megatron needs for it",
                given=f"true, but {obstacle}",
                fix="set it to null: then it is on where it can be",
            )
        found[name] = obstacle is None if asked is None else bool(asked)
    return found


def _obstacle(name: str) -> str | None:
    """Why a fusion cannot be had here."""
    if not torch.cuda.is_available():
        return "PyTorch sees no CUDA device here"
    if name == "gradient_accumulation_fusion" and find_spec(_EXTENSION) is None:
        return f"the module {_EXTENSION} (of NVIDIA apex) is not installed"
    return None
