"""Other positions for a transformers model that is in memory: its weights stay, its frequencies are replaced.

transformers' modules make cosines and sines of `inv_freq` and `attention_scaling` at each call, whatever
rope_type they came from. GPT-J's attention looks them up in a table instead.

Shape legend: F rotated pairs of a head, P positions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nemo_pi.errors import CheckpointError
from nemo_pi.evaluation.huggingface_cache import rotary_modules
from nemo_pi.rope.hf_kinds import SLIDING
from nemo_pi.rope.positions import text_positions
from nemo_pi.rope.spec import ContextExtension
from nemo_pi.rope.tables import attention_factor, inverse_frequencies, rotary_cos_sin

_TABLE = "embed_positions"


def set_positions(model: Any, extension: ContextExtension, seq_len: int) -> None:
    """Lets a model read its next text as an extension says; what its config.json says of positions is void.

    Args:
        model: of transformers, with rotary positions.
        extension: of the model's own head size, base and rotated share.
        seq_len: tokens of the longest text that is read next, for methods that depend on it.

    Raises:
        CheckpointError: the model has no rotary frequencies that could be replaced.
    """
    modules = list(rotary_modules(model))
    tables = [module for module in model.modules() if _TABLE in module._buffers]
    if not modules and not tables:
        raise CheckpointError(
            type(model).__name__,
            required="a model with rotary frequencies",
            given="none that are known here",
            fix="give a model of a family in docs/families.md",
        )
    for module, kind in modules:
        spec = extension.sliding if kind == f"{SLIDING}_" and extension.sliding else extension
        _set_frequencies(module, kind, spec, seq_len)
    if tables:
        table_PD = _table(extension, seq_len)
        for module in tables:
            module._buffers[_TABLE] = table_PD.to(module._buffers[_TABLE])


def _set_frequencies(module: Any, kind: str, spec: ContextExtension, seq_len: int) -> None:
    frequencies_F = inverse_frequencies(spec, seq_len, device=getattr(module, f"{kind}inv_freq").device)
    # The original ones, too: what resets a model between texts would bring the old ones back.
    for name in (f"{kind}inv_freq", f"{kind}original_inv_freq"):
        setattr(module, name, frequencies_F)
    setattr(module, f"{kind}attention_scaling", attention_factor(spec, seq_len))
    # Dynamic types would replace what has just been set when the module is called.
    types = getattr(module, "rope_type", None)
    module.rope_type = dict.fromkeys(types, "default") if isinstance(types, dict) else "default"


def _table(spec: ContextExtension, seq_len: int) -> Tensor:
    """Sines, then cosines of all positions of a text [P, 2F]."""
    cos_PF, sin_PF = rotary_cos_sin(spec, text_positions(seq_len), seq_len)
    return torch.cat((sin_PF, cos_PF), dim=-1)
