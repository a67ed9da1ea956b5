"""Passkeys read off teacher forcing against passkeys that are generated, on the bundled model."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemo_pi.data.tokenizer import build_tokenizer
from nemo_pi.evaluation.generation import GenerationRequest
from nemo_pi.evaluation.huggingface import HuggingFaceScorer
from nemo_pi.evaluation.passkey import retrieves
from nemo_pi.evaluation.tasks.base import TaskContext
from nemo_pi.evaluation.tasks.passkey import Passkey

BUNDLED = Path(__file__).resolve().parents[4] / "demo" / "model"


def test_generated_answers_agree_with_teacher_forcing() -> None:
    """Inside the window of 512 tokens the bundled model answers, a little beyond it sometimes: both occur."""
    scorer, tokenizer = HuggingFaceScorer(BUNDLED, device="cpu"), build_tokenizer("huggingface", str(BUNDLED))
    task = Passkey(lengths=(300, 640), depths=(0.0, 0.5, 1.0), trials=1, seed=3)
    plan = task.plan(TaskContext(tokenizer, [], 512, 640))
    documents = [
        document for length in plan.work.lengths for _, document in plan.work.documents(tokenizer, length)
    ]
    forced = [answer for document in documents for answer in retrieves(scorer, [document])]
    most = max(document.num_answer_tokens for document in documents)
    prompts = [document.token_ids[: -document.num_answer_tokens] for document in documents]
    texts = scorer.generate(prompts, GenerationRequest(most))
    generated = [
        text.token_ids[: document.num_answer_tokens] == document.token_ids[-document.num_answer_tokens :]
        for text, document in zip(texts, documents, strict=True)
    ]
    assert generated == forced
    assert 3 <= sum(forced) < len(forced), "both answers must occur"
    result = task.run(scorer, plan, lambda *_: None)
    assert sum(map(sum, result.grid.successes)) == sum(generated)


@pytest.mark.parametrize("batch_tokens", [1, 700, 5000])
def test_the_plan_says_how_many_batches_there_will_be(batch_tokens: int) -> None:
    tokenizer = build_tokenizer("huggingface", str(BUNDLED))
    plan = Passkey(lengths=(300, 400), trials=3).plan(
        TaskContext(tokenizer, [], 512, 512, batch_tokens=batch_tokens)
    )
    expected = {1: 30, 700: 8 + 15, 5000: 1 + 2}[batch_tokens]
    assert plan.cost.batches == expected and plan.cost.tokens == 15 * 700
