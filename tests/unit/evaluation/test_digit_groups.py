"""Numbers in tokens of three digits (Llama 3) or one (Qwen): pass keys and needles."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from nemo_pi.evaluation.generation import Generated, GenerationRequest
from nemo_pi.evaluation.huggingface import HuggingFaceScorer
from nemo_pi.evaluation.needle_text import NeedleAtDepth
from nemo_pi.evaluation.passkey import generates, retrieves
from nemo_pi.evaluation.passkey_plan import MOST_ANSWER_TOKENS
from nemo_pi.evaluation.passkey_text import passkey_document, shortest_length
from nemo_pi.evaluation.prompts import answered, samples
from nemo_pi.evaluation.tasks.base import TaskContext


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> HuggingFaceScorer:
    """A random model over 1,600 tokens."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1600,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=512,
        initializer_range=0.5,
        bos_token_id=None,
        eos_token_id=None,
    )
    folder = tmp_path_factory.mktemp("digits")
    LlamaForCausalLM(config).eval().save_pretrained(folder)
    return HuggingFaceScorer(folder, device="cpu")


def test_the_tokenizers_group_digits_as_the_models_do(digit_tokenizer: Any) -> None:
    pieces = [digit_tokenizer.decode([i]) for i in digit_tokenizer.encode(" 12345")]
    assert pieces in ([" ", "123", "45"], [" ", "1", "2", "3", "4", "5"])


def test_generated_and_teacher_forced_answers_agree(digit_tokenizer: Any, scorer: HuggingFaceScorer) -> None:
    length = shortest_length(digit_tokenizer) + 20
    documents = []
    for trial in range(8):
        document = passkey_document(digit_tokenizer, length, trial, seed=0)
        size = document.num_answer_tokens
        assert digit_tokenizer.decode(document.token_ids[-size:]).strip() == document.key
        assert 3 <= size <= MOST_ANSWER_TOKENS
        if trial % 2:  # as if the key were what this model would answer
            prompt = document.token_ids[:-size]
            (told,) = scorer.generate([prompt], GenerationRequest(size))
            document = replace(document, token_ids=(*prompt, *told.token_ids))
        documents.append(document)
    assert retrieves(scorer, documents) == generates(scorer, documents) == [False, True] * 4


def test_a_needle_is_found_however_its_seven_digits_are_cut(digit_tokenizer: Any) -> None:
    class Writes:
        """Goes on with the given texts, in tokens."""

        name = "writes"
        texts: list[str] = []

        def generate(self, prompts: Any, request: GenerationRequest) -> list[Generated]:
            ids = [digit_tokenizer.encode(text)[: request.max_new_tokens] for text in self.texts]
            return [request.finish(own) for own in ids]

    words = [f"Sentence number {random.Random(i).randint(0, 999)}." for i in range(400)]
    context = TaskContext(digit_tokenizer, [digit_tokenizer.encode(" ".join(words))], 512, 512)
    maker = NeedleAtDepth(" ".join(words).split(), 0.5)
    made = list(samples(context, maker, 400, "k", 6))
    for sample in made:
        assert len(digit_tokenizer.encode(sample.prompt)) + maker.new_tokens <= 400
    Writes.texts = [f" {sample.answers[0]}. And so on." for sample in made]
    assert answered(Writes(), context, maker, made) == 6.0
    Writes.texts = [f" {sample.answers[0][:-1]}" for sample in made]
    assert answered(Writes(), context, maker, made) == 0.0
