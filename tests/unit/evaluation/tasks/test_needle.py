"""Needles in prose: where they lie, how long prompts are, and what the bundled model finds."""

from __future__ import annotations

import json
import lzma
import random
from pathlib import Path

import pytest

from nemo_pi.data.tokenizer import build_tokenizer
from nemo_pi.errors import ConfigError, DataError
from nemo_pi.evaluation.huggingface import HuggingFaceScorer
from nemo_pi.evaluation.needle_text import NeedleAtDepth
from nemo_pi.evaluation.prompts import samples
from nemo_pi.evaluation.tasks.base import Measured, TaskContext
from nemo_pi.evaluation.tasks.needle import Needle

ROOT = Path(__file__).resolve().parents[4]
BUNDLED = ROOT / "demo" / "model"


@pytest.fixture(scope="module")
def context() -> TaskContext:
    tokenizer = build_tokenizer("huggingface", str(BUNDLED))
    with lzma.open(ROOT / "demo" / "text" / "heldout.jsonl.xz", "rt", encoding="utf-8") as file:
        document = tokenizer.encode(json.loads(file.readline())["text"])[:4000]
    return TaskContext(tokenizer, [document], 512, 1024)


@pytest.mark.parametrize("depth", [0.0, 0.3, 1.0])
def test_the_needle_lies_at_its_depth_between_sentences(depth: float) -> None:
    words = [f"Sentence {i}." for i in range(300)]
    sample = NeedleAtDepth(" ".join(words).split(), depth).make(random.Random(1), 200, 0)
    before, needle, after = sample.prompt.partition("The special magic ")
    assert needle and sample.answers[0] in after.partition(".")[0]
    assert before.count("Sentence") == pytest.approx(100 * depth, abs=1)
    assert after.count("Sentence") == pytest.approx(100 * (1 - depth), abs=1)
    assert sample.prompt.endswith("number is:") and sample.prompt.count(sample.answers[0]) == 1


def test_prompts_fill_their_length(context: TaskContext) -> None:
    maker = Needle().plan(context).work.makers[0.5]
    for sample in samples(context, maker, 1024, "k", 3):
        tokens = len(context.tokenizer.encode(sample.prompt)) + maker.new_tokens
        assert 0.95 * 1024 <= tokens <= 1024


def test_the_bundled_model_is_measured_as_planned(context: TaskContext, tmp_path: Path) -> None:
    task = Needle(lengths=(300, 600), depths=(1.0, 0.0), trials=2, seed=5)
    plan = task.plan(context)
    calls: list[tuple[int, int]] = []
    scorer = HuggingFaceScorer(BUNDLED, device="cpu")
    result = task.run(scorer, plan, lambda what, done, total: calls.append((done, total)))
    assert calls[-1] == (plan.cost.tokens, plan.cost.tokens) and len(calls) == 1 + plan.cost.batches
    assert result.grid.lengths == (300, 600) and result.grid.depths == (0.0, 1.0)
    assert all(0 <= count <= 2 for row in result.grid.successes for count in row)
    again = task.run(scorer, plan, lambda *_: None)
    assert again == result
    models = [Measured("bundled", 512, 1024, result)]
    assert task.table(models).header == ("model", "300", "600", "k_max")
    assert (task.plot(models, tmp_path / "needle.png") or tmp_path).stat().st_size > 10_000


def test_lengths_that_hold_no_prompt_are_left_out_or_refused(context: TaskContext) -> None:
    assert Needle(num_lengths=32).plan(context).work.lengths[0] > 64
    with pytest.raises(DataError, match="lengths"):
        Needle(lengths=(40,)).plan(context)
    with pytest.raises(ConfigError, match="lengths"):
        Needle(lengths=(2048,)).plan(context)
    with pytest.raises(DataError, match="documents: required at least 1000 words"):
        Needle().plan(TaskContext(context.tokenizer, [], 512, 1024))
    for field in ("lengths", "depths"):
        with pytest.raises(ConfigError, match=field):
            Needle(**{field: ()})
    for wrong in ({"depths": (1.5,)}, {"trials": 0}, {"num_lengths": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Needle(**wrong)  # type: ignore[arg-type]
