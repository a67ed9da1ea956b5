"""Positions replaced in a loaded model, beside transformers' own model of a config.json that says them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.errors import CheckpointError
from nemo_pi.evaluation.generation import GenerationRequest
from nemo_pi.evaluation.huggingface import HuggingFaceScorer
from nemo_pi.evaluation.huggingface_positions import set_positions
from nemo_pi.evaluation.scorer import score_texts
from nemo_pi.rope.spec import ContextExtension
from tests.unit.families.test_parity import scaled, variants
from tests.unit.model.models import WINDOW, random_tokens, transformers_model
from tests.unit.rope.peers import make_spec

LONG = 9 * WINDOW
"""Beyond the window from which transformers' dynamic NTK of these settings counts, eight times WINDOW."""
METHODS = ("linear", "ntk", "dynamic", "yarn", "llama3", "longrope", "abf")
OTHERS = ("qwen3", "smollm3", "ministral3", "phi3", "olmo3", "gemma3_text", "glm4", "gpt_neox", "stablelm")
"""Families whose classes make positions in ways of their own."""
CASES = [("llama", method) for method in METHODS] + [
    (family, method)
    for family in OTHERS
    for method in (("longrope",) if family == "phi3" else ("dynamic", "yarn"))
]


def scores(scorer: HuggingFaceScorer, length: int) -> Tensor:
    return score_texts(scorer, random_tokens(2, length)).logprob_BS


def folders(family: str, method: str, folder: Path) -> tuple[Path, Path]:
    """The same weights in two folders: under plain positions, and scaled by transformers' own entries."""
    settings = variants(family)["plain"]
    for name in ("none", method):
        transformers_model(family, **scaled(family, settings, name)).save_pretrained(folder / name)
    return folder / "none", folder / method


@pytest.mark.parametrize(("family", "method"), CASES)
def test_the_same_bits_as_transformers_own_model(family: str, method: str, tmp_path: Path) -> None:
    """Within the original window and beyond it, in turn: nothing of a longer text stays behind."""
    plain, peer = folders(family, method, tmp_path)
    ours, theirs = HuggingFaceScorer(plain, device="cpu"), HuggingFaceScorer(peer, device="cpu")
    before = scores(ours, LONG)
    ours.read_as(read_summary(peer).extension)
    for length in (LONG, WINDOW // 2, LONG + 3):
        assert torch.equal(scores(ours, length), scores(theirs, length)), length
    assert not torch.equal(scores(ours, LONG), before)
    ours.read_as(read_summary(plain).extension)
    assert torch.equal(scores(ours, LONG), before)


@pytest.mark.parametrize("method", ["yarn", "dynamic"])
def test_generates_what_transformers_own_model_generates(method: str, tmp_path: Path) -> None:
    plain, peer = folders("llama", method, tmp_path)
    ours, theirs = HuggingFaceScorer(plain, device="cpu"), HuggingFaceScorer(peer, device="cpu")
    ours.read_as(read_summary(peer).extension)
    prompts = random_tokens(2, 8 * WINDOW - 3).tolist()
    request = GenerationRequest(8)
    assert ours.generate(prompts, request) == theirs.generate(prompts, request)


def test_gptj_looks_up_interpolated_positions(tmp_path: Path) -> None:
    """Its class has a table, and no words for a scaling."""
    model = transformers_model("gptj", **{**variants("gptj")["plain"], "max_position_embeddings": 8 * WINDOW})
    model.save_pretrained(tmp_path)
    scorer = HuggingFaceScorer(tmp_path, device="cpu")
    found = read_summary(tmp_path).extension
    spec = ContextExtension.build(
        original_window=WINDOW,
        target_window=4 * WINDOW,
        head_dim=found.head_dim,
        base=found.base,
        rotary_percent=found.rotary_percent,
    )
    scorer.read_as(spec)
    tokens_BS = random_tokens(1, 3 * WINDOW)
    ours = score_texts(scorer, tokens_BS).logprob_BS
    dim = model.config.rotary_dim
    inverse = 1.0 / (10000 ** (torch.arange(0, dim, 2) / dim)) / 4
    angle = torch.arange(8 * WINDOW)[:, None].double() * inverse.double()
    for block in model.transformer.h:
        block.attn.embed_positions = torch.cat((angle.sin(), angle.cos()), dim=1).float()
    with torch.no_grad():
        logits = model(tokens_BS[:, :-1], use_cache=False).logits
    theirs = logits.log_softmax(-1).gather(-1, tokens_BS[:, 1:, None]).squeeze(-1)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_a_model_without_rotary_positions_is_refused() -> None:
    with pytest.raises(CheckpointError, match="rotary frequencies"):
        set_positions(torch.nn.Linear(2, 2), make_spec("linear"), 10)
