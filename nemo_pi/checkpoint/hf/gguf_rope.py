"""How a GGUF file scales positions, in config.json's words; transformers' reader leaves it out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nemo_pi.errors import CheckpointError
from nemo_pi.rope.methods import llama3, plain
from nemo_pi.rope.methods.linear import Linear
from nemo_pi.rope.methods.llama3 import Llama3
from nemo_pi.rope.methods.plain import Plain
from nemo_pi.rope.methods.yarn import Yarn

# What Llama 3.1 to 3.3 were published with; the file holds what follows from it, frequency by frequency.
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_NAMES = {
    "scaling.factor": "factor",
    "scaling.original_context_length": "original_max_position_embeddings",
    "scaling.yarn_beta_fast": "beta_fast",
    "scaling.yarn_beta_slow": "beta_slow",
}
# llama.cpp calls its kinds of scaling as Hugging Face does.
_PLAIN, _KINDS = Plain.name, {method.hf_types[0] for method in (Linear, Yarn)}
_WITHOUT_EFFECT = {"dimension_count", "freq_base", "scaling.type", "scaling.finetuned", *_NAMES}


def rope_entries(rope: Mapping[str, Any], head_dim: int, factors: Tensor | None, file: str) -> dict[str, Any]:
    """`rope_parameters` of a config.json.

    Args:
        rope: the file's own keys below `llama.rope.`.
        head_dim: channels of a head.
        factors: fp32 [head_dim / 2], by which the file divides each frequency; None where it has none.
        file: for messages.

    Raises:
        CheckpointError: scaling that has no words in config.json.
    """
    base = float(rope.get("freq_base") or 10000.0)
    kind = rope.get("scaling.type") or _PLAIN
    unknown = {key: value for key, value in rope.items() if key not in _WITHOUT_EFFECT}
    unknown = {key: value for key, value in unknown.items() if value not in (None, 0, 1)}
    if kind not in (_PLAIN, *_KINDS) or unknown:
        given = f"scaling.type {kind}" if not unknown else ", ".join(f"{k}={v}" for k, v in unknown.items())
        raise _unusable(file, "no scaling of positions, linear, yarn or llama3", given)
    entries: dict[str, Any] = {"rope_type": Plain.hf_types[0], "rope_theta": base}
    if kind != _PLAIN:
        named = {name: rope[key] for key, name in _NAMES.items() if rope.get(key)}
        entries |= {"rope_type": kind, **named}
    if factors is not None and not torch.equal(factors, torch.ones_like(factors)):
        if kind != _PLAIN:
            raise _unusable(file, "one kind of scaling", f"{kind}, and a factor for each frequency")
        entries |= _llama3(factors, head_dim, base, file)
    return {"rope_parameters": entries}


def _llama3(factors: Tensor, head_dim: int, base: float, file: str) -> dict[str, Any]:
    factor = float(factors.max())
    window, low, high = (
        _LLAMA3["original_max_position_embeddings"],
        _LLAMA3["low_freq_factor"],
        _LLAMA3["high_freq_factor"],
    )
    scaled = llama3.inverse_frequencies(head_dim, base, factor, int(window), low, high)
    expected = plain.inverse_frequencies(head_dim, base) / scaled
    if factors.shape != expected.shape or not torch.allclose(factors, expected, rtol=1e-4):
        given = f"{len(factors)} factors from {float(factors.min()):g} to {factor:g}"
        raise _unusable(file, "the factors of Llama 3.1 (low 1, high 4, window 8192)", given)
    return {"rope_type": Llama3.hf_types[0], "factor": factor, **_LLAMA3}


def _unusable(file: str, required: str, given: str) -> CheckpointError:
    fix = "give the safetensors that the file was made from, whose config.json says how positions are scaled"
    return CheckpointError(f"{file}: rope", required=required, given=given, fix=fix)
