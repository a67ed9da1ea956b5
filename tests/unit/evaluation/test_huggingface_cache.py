"""What HuggingFaceScorer generates, against transformers' own generate without its cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Olmo3Config

from nemo_pi.errors import DataError
from nemo_pi.evaluation.generation import GenerationRequest
from nemo_pi.evaluation.huggingface import HuggingFaceScorer
from nemo_pi.evaluation.sampling import Sampling

WINDOW, NEW = 32, 24
PAIRS = 4
ROPE: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "longrope": {
        "rope_type": "longrope",
        "factor": 4.0,
        "original_max_position_embeddings": WINDOW,
        "short_factor": [1.0 + 0.1 * j for j in range(PAIRS)],
        "long_factor": [1.0 + 0.9 * j for j in range(PAIRS)],
    },
}


# Rotary embeddings by kind of layer, of which one depends on the length.
BY_KIND = {"full_attention": ROPE["dynamic"], "sliding_attention": ROPE["default"]}
ROPE |= {"dynamic, full layers": BY_KIND}


def model_folder(method: str, folder: Path) -> Path:
    torch.manual_seed(4)
    config_class, own = LlamaConfig, {"rope_parameters": {"rope_theta": 10000.0, **ROPE[method]}}
    if ROPE[method] is BY_KIND:
        own = {"rope_parameters": BY_KIND, "layer_types": [*BY_KIND], "sliding_window": 40}
        config_class = Olmo3Config
    config = config_class(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4 * WINDOW if method in ("linear", "longrope") else WINDOW,
        **own,
        initializer_range=0.4,
        bos_token_id=None,
        eos_token_id=None,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def prompts() -> list[list[int]]:
    """Of different lengths, two of one length; all cross the window while they grow."""
    generator = torch.Generator().manual_seed(8)
    return [torch.randint(96, (n,), generator=generator).tolist() for n in (20, 31, 12, 20, 40)]


def by_transformers(folder: Path, prompt: list[int]) -> tuple[int, ...]:
    """One token after the other, each from scratch, by a model that has read nothing longer before."""
    text, model = list(prompt), AutoModelForCausalLM.from_pretrained(folder).eval()
    for _ in range(NEW):
        ids = torch.tensor([text])
        with torch.no_grad():
            out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, do_sample=False)
        text.append(int(out[0, -1]))
    return tuple(text[len(prompt) :])


@pytest.mark.parametrize("method", ROPE)
def test_greedy_batches_equal_transformers_prompt_by_prompt(method: str, tmp_path: Path) -> None:
    folder = model_folder(method, tmp_path)
    scorer = HuggingFaceScorer(folder, device="cpu")
    texts = scorer.generate(prompts(), GenerationRequest(NEW))
    again = scorer.generate(prompts(), GenerationRequest(NEW, batch_tokens=1))
    assert texts == again
    expected = [by_transformers(folder, prompt) for prompt in prompts()]
    assert [text.token_ids for text in texts] == expected
    assert len({token for row in expected for token in row}) > 10, "a loop would prove little"


@pytest.mark.parametrize("method", ["dynamic", "longrope", "dynamic, full layers"])
def test_a_cache_kept_under_older_frequencies_would_tell(method: str, tmp_path: Path) -> None:
    folder = model_folder(method, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    differs = []
    for prompt in prompts():
        ids = torch.tensor([prompt])
        cached = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False)
        differs.append(tuple(cached[0, len(prompt) :].tolist()) != by_transformers(folder, prompt))
    assert any(differs)


@pytest.mark.parametrize("method", ["dynamic", "dynamic, full layers"])
def test_scores_do_not_depend_on_what_was_read_before(method: str, tmp_path: Path) -> None:
    """transformers' dynamic NTK reads a shorter text at the frequencies of the longest it has seen."""
    folder = model_folder(method, tmp_path)
    ids = torch.randint(96, (1, 4 * WINDOW), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(4 * WINDOW)[None]

    def scores(scorer: HuggingFaceScorer, length: int) -> torch.Tensor:
        return scorer.score(ids[:, :length], ids[:, 1 : length + 1], positions[:, :length]).logprob_BS

    used = HuggingFaceScorer(folder, device="cpu")
    scores(used, 3 * WINDOW)
    fresh = HuggingFaceScorer(folder, device="cpu")
    assert torch.equal(scores(used, WINDOW + 8), scores(fresh, WINDOW + 8))


def test_drawn_batches_equal_each_prompt_alone(tmp_path: Path) -> None:
    scorer = HuggingFaceScorer(model_folder("linear", tmp_path), device="cpu")
    request = GenerationRequest(NEW, Sampling(temperature=1.2, top_k=30, top_p=0.9, seed=2))
    texts = scorer.generate(prompts(), request)
    one_by_one = scorer.generate(prompts(), GenerationRequest(NEW, request.sampling, batch_tokens=1))
    assert [text.token_ids for text in texts] == [text.token_ids for text in one_by_one]
    assert texts != scorer.generate(prompts(), GenerationRequest(NEW))


def test_ids_outside_the_vocabulary_and_empty_prompts_are_refused(tmp_path: Path) -> None:
    scorer = HuggingFaceScorer(model_folder("default", tmp_path), device="cpu")
    with pytest.raises(DataError, match="ids from"):
        scorer.generate([[96]], GenerationRequest(1))
    with pytest.raises(DataError, match="prompts"):
        scorer.generate([[]], GenerationRequest(1))
