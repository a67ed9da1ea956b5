"""Pass keys as PoSE's and YaRN's scripts ask for them, against their loops written out with transformers."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from nemo_pi.data.tokenizer import build_tokenizer
from nemo_pi.errors import ConfigError, DataError
from nemo_pi.evaluation.generation import Generated, GenerationRequest
from nemo_pi.evaluation.huggingface import HuggingFaceScorer
from nemo_pi.evaluation.passkey_evaluators import EVALUATORS, EvaluatorKeys, answers
from nemo_pi.evaluation.tasks.base import Measured, TaskContext
from nemo_pi.evaluation.tasks.passkey import Passkey

BUNDLED = Path(__file__).resolve().parents[3] / "demo" / "model"
LINES = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. "
    "I will quiz you about the important information there.",
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.",
    "What is the pass key? The pass key is",
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(BUNDLED)


@pytest.fixture(scope="module")
def context() -> TaskContext:
    return TaskContext(build_tokenizer("huggingface", str(BUNDLED)), [], 512, 640)


def count(tokenizer: PreTrainedTokenizerFast, text: str) -> int:
    return len(tokenizer.encode(text, add_special_tokens=False))


def key_line(key: int) -> str:
    return f"The pass key is {key}. Remember it. {key} is the pass key."


def pose_prompt(tokenizer: PreTrainedTokenizerFast, rng: random.Random, length: int, window: int) -> Any:
    """The script's generate_prompt, its constants replaced by this tokenizer's counts."""
    task, garbage, question = LINES
    if length == window:
        length -= 100
    fixed = sum(count(tokenizer, part) for part in (task, key_line(12345), question))
    total = (length - fixed) // (count(tokenizer, garbage + garbage) - count(tokenizer, garbage))
    before = rng.randint(0, total)
    key = rng.randint(1, 50000)
    return "\n".join([task, garbage * before, key_line(key), garbage * (total - before), question]), key


def yarn_prompt(tokenizer: PreTrainedTokenizerFast, rng: random.Random, length: int, window: int) -> Any:
    """The script's search for a number of characters, and its generate_prompt."""
    task, garbage, question = LINES
    endless = " ".join([garbage] * 2000)

    def prompt(characters: int, before: int, key: int) -> str:
        return "\n".join([task, endless[:before], key_line(key), endless[: characters - before], question])

    tokens = last = following = 0
    while tokens < length:
        last, following = following, following + 25
        tokens = count(tokenizer, prompt(following, 0, 12345))
    before = rng.randint(0, last)
    key = rng.randint(1, 50000)
    return prompt(last, before, key), key


PROMPTS = {"pose": pose_prompt, "yarn": yarn_prompt}


@pytest.mark.parametrize("name", EVALUATORS)
def test_equals_the_script_s_loop(
    name: str, tokenizer: PreTrainedTokenizerFast, context: TaskContext
) -> None:
    task = Passkey(protocol=name, lengths=(500, 320), trials=4, seed=3)
    plan = task.plan(context)
    calls: list[tuple[int, int]] = []
    scorer = HuggingFaceScorer(BUNDLED, device="cpu")
    result = task.run(scorer, plan, lambda what, done, total: calls.append((done, total)))
    model = AutoModelForCausalLM.from_pretrained(BUNDLED, dtype=torch.float32).eval()
    expected = []
    for length in (320, 500):
        correct = 0
        for trial in range(4):
            rng = random.Random(f"passkey/{name}/3/{length}/{trial}")
            prompt, key = PROMPTS[name](tokenizer, rng, length, 640)
            ids = tokenizer.encode(prompt, add_special_tokens=False, return_tensors="pt")
            new = model.generate(ids, max_new_tokens=10, do_sample=False)[0, ids.size(1) :]
            found = re.search(r"\d+", tokenizer.decode(new, skip_special_tokens=True))
            correct += found is not None and int(found.group()) == key
        expected.append((correct,))
    assert result.grid.successes == tuple(expected)
    assert 0 < sum(found for (found,) in expected) < 8, "found and missed keys must both occur"
    assert calls[-1] == (plan.cost.tokens, plan.cost.tokens) and len(calls) == 1 + plan.cost.batches


@pytest.mark.parametrize("length", [250, 417, 530, 640])
@pytest.mark.parametrize("name", EVALUATORS)
def test_prompts_are_the_script_s_word_for_word(
    name: str, length: int, tokenizer: PreTrainedTokenizerFast, context: TaskContext
) -> None:
    plan = EvaluatorKeys(name, (length,), 6, 5, bos=False)
    for trial, (ids, key) in enumerate(plan.prompts(context, length)):
        expected = PROMPTS[name](tokenizer, random.Random(f"passkey/{name}/5/{length}/{trial}"), length, 640)
        if (name, length) == ("yarn", 640):  # the script lets the answer run over the end of the window
            assert 600 < len(ids) <= 630 and f"The pass key is {key}." in tokenizer.decode(ids)
        else:
            assert (tokenizer.decode(ids), key) == expected


def test_yarn_s_prompt_has_fewer_tokens_than_its_length_not_as_many(
    tokenizer: PreTrainedTokenizerFast, context: TaskContext
) -> None:
    yarn = EVALUATORS["yarn"]
    length = count(tokenizer, yarn.text(250, 0, 12345))
    assert yarn.size(context.tokenizer, length, 640, 0) == 225
    assert yarn.size(context.tokenizer, length + 1, 640, 0) == 250
    assert yarn.size(context.tokenizer, length + 1, 640, 1) == 225


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (" 123. Remember", True),
        ("00123", True),
        (" is 123", True),
        ("1234", False),
        ("12 3", False),
        ("", False),
    ],
)
def test_the_first_digits_are_the_answer(text: str, found: bool) -> None:
    assert answers(text, 123) is found


class Shortsighted:
    """Writes the key where the whole prompt has fewer tokens than it can see."""

    name = "shortsighted"

    def __init__(self, context: TaskContext, sees: int) -> None:
        self.context, self.sees = context, sees

    def generate(self, prompts: Any, request: GenerationRequest) -> list[Generated]:
        texts = []
        for prompt in prompts:
            assert len(prompt) + request.max_new_tokens <= self.context.target_window
            found = re.search(r"is (\d+)\.", self.context.tokenizer.decode(prompt))
            texts.append(Generated((), f" {found.group(1)}." if found and len(prompt) < self.sees else ""))
        return texts


def test_how_far_keys_are_found_is_told_by_each_protocol_s_rule(context: TaskContext, tmp_path: Path) -> None:
    results = {}
    for name in EVALUATORS:
        task = Passkey(protocol=name, lengths=(640, 320, 480), trials=3)
        result = task.run(Shortsighted(context, 400), task.plan(context), lambda *_: None)
        results[name] = result
        assert result.grid.depths == () and result.grid.lengths == (320, 480, 640)
        assert type(result).from_json(result.to_json()) == result
        assert name in result.protocol["summary"] and "k_max" in result.protocol["summary"]
        models = [Measured("one", 512, 640, result)]
        assert task.table(models).lines[0][1] == "100%"
        assert (task.plot(models, tmp_path / f"{name}.png") or tmp_path).stat().st_size > 10_000
    assert results["pose"].k_max == results["yarn"].k_max == 320
    patchy = results["yarn"].to_json()
    patchy["grid"]["successes"] = [[1], [3], [2]]
    assert type(result).from_json(patchy).k_max == 480  # whatever happens at a shorter one
    patchy["protocol"]["name"] = "pose"
    assert type(result).from_json(patchy).k_max == 640  # a third is above a fifth


def test_what_cannot_be_is_refused(context: TaskContext) -> None:
    with pytest.raises(ConfigError, match=r"protocol: .*did you mean 'pose'"):
        Passkey(protocol="poes")
    for name in EVALUATORS:
        for wrong in ({"depths": (0.0,)}, {"generate": True}):
            with pytest.raises(ConfigError, match=next(iter(wrong))):
                Passkey(protocol=name, **wrong)  # type: ignore[arg-type]
        with pytest.raises(DataError, match="lengths: required more than"):
            Passkey(protocol=name, lengths=(40,)).plan(context)
