"""Passkeys read off teacher forcing against passkeys that are generated, on the bundled model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nemo_pi.data.tokenizer import build_tokenizer
from nemo_pi.evaluation.huggingface import HuggingFaceScorer
from nemo_pi.evaluation.passkey_plan import MOST_ANSWER_TOKENS
from nemo_pi.evaluation.tasks.base import TaskContext
from nemo_pi.evaluation.tasks.passkey import Passkey

BUNDLED = Path(__file__).resolve().parents[4] / "demo" / "model"


def test_generated_answers_agree_with_teacher_forcing() -> None:
    """Inside the window of 512 tokens the bundled model answers, a little beyond it sometimes: both occur."""
    scorer, tokenizer = HuggingFaceScorer(BUNDLED, device="cpu"), build_tokenizer("huggingface", str(BUNDLED))
    context = TaskContext(tokenizer, [], 512, 640)
    forced = Passkey(lengths=(300, 640), depths=(0.0, 0.5, 1.0), trials=1, seed=3)
    results, plans, calls = [], [], []
    for task in (forced, replace(forced, generate=True)):
        plans.append(task.plan(context))
        results.append(task.run(scorer, plans[-1], lambda *call: calls.append(call)))
        assert calls[-1][1:] == (plans[-1].cost.tokens, plans[-1].cost.tokens)
    assert results[0].grid == results[1].grid
    assert 3 <= sum(map(sum, results[0].grid.successes)) < 6, "both answers must occur"
    assert [plan.cost.tokens_generated for plan in plans] == [0, 6 * MOST_ANSWER_TOKENS]
    assert "generate" not in plans[0].protocol and plans[1].protocol["generate"] is True
    assert plans[1].protocol["summary"].startswith("generated token by token: five random digits")
    documents = (document for _, document in plans[0].work.documents(tokenizer, 640))
    assert max(document.num_answer_tokens for document in documents) <= MOST_ANSWER_TOKENS


@pytest.mark.parametrize("batch_tokens", [1, 700, 5000])
def test_the_plan_says_how_many_batches_there_will_be(batch_tokens: int) -> None:
    tokenizer = build_tokenizer("huggingface", str(BUNDLED))
    plan = Passkey(lengths=(300, 400), trials=3).plan(
        TaskContext(tokenizer, [], 512, 512, batch_tokens=batch_tokens)
    )
    expected = {1: 30, 700: 8 + 15, 5000: 1 + 2}[batch_tokens]
    assert plan.cost.batches == expected and plan.cost.tokens == 15 * 700
