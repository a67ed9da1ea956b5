"""transformers in float64, weight by weight, beside transformers itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from nemo_pi.rope.spec import ContextExtension
from nemo_pi.verification import reference
from nemo_pi.verification.probes import Probes, make_probes
from nemo_pi.verification.reference import Reference
from tests.unit.model.models import ExactRotary, causal_logits
from tests.unit.verification.folders import HEAD_DIM, WINDOW, folder_of

UNIT = 2.0**-24


def probes() -> Probes:
    return make_probes(ContextExtension.unscaled(WINDOW, HEAD_DIM), 96, 16, seed=0)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_it_is_transformers_model_to_rounding(family: str, tied: bool, tmp_path: Path) -> None:
    folder, asked = folder_of(tmp_path / "model", family, tie_word_embeddings=tied), probes()
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    model.model.rotary_emb = ExactRotary(model.model.rotary_emb)
    with torch.no_grad():
        theirs_BSV = causal_logits(model, asked.tokens_BS, asked.positions_BS)
    truth = Reference(folder, UNIT).truth(asked, each_row=False)
    assert truth.logits_BSV.dtype == torch.float64
    torch.testing.assert_close(truth.logits_BSV.float(), theirs_BSV, rtol=1e-4, atol=1e-4)


def test_it_computes_in_float64_throughout(tmp_path: Path) -> None:
    """transformers' Llama casts to fp32 in norms, softmax and angles; float64 throughout has other digits."""
    folder, asked = folder_of(tmp_path / "model"), probes()
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float64)
    model.model.rotary_emb = ExactRotary(model.model.rotary_emb)
    for norm in [m for m in model.modules() if type(m).__name__ == "LlamaRMSNorm"]:
        weight, eps = norm.weight, norm.variance_epsilon
        norm.forward = lambda x, w=weight, e=eps: w * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + e)
    truth = Reference(folder, UNIT).truth(asked, each_row=False)
    with torch.no_grad():
        close_BSV = causal_logits(model, asked.tokens_BS, asked.positions_BS)
    # What is left here is the softmax in fp32.
    assert (truth.logits_BSV - close_BSV).abs().max() < 5e-6


def test_large_matrices_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, asked = folder_of(tmp_path / "model", "qwen2"), probes()
    whole = Reference(folder, UNIT).truth(asked, each_row=False).logits_BSV
    monkeypatch.setattr(reference, "_CHUNK", 500)
    pieces = Reference(folder, UNIT).truth(asked, each_row=False).logits_BSV
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-12)


def test_rounding_moves_logits_in_proportion(tmp_path: Path) -> None:
    folder, asked = folder_of(tmp_path / "model"), probes()
    fine, coarse = (Reference(folder, unit).truth(asked, each_row=False) for unit in (UNIT, 64 * UNIT))
    ratio = float(coarse.moved_BS.max() / fine.moved_BS.max())
    assert 16 < ratio < 128
    assert torch.equal(fine.logits_BSV, coarse.logits_BSV)
