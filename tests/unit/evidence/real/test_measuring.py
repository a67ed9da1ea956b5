"""What is measured part by part is what one task would measure in one go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from demo.corpus import MODEL
from evidence.real.measuring import LENGTHS, combined, open_tokenizer, parts_of
from evidence.real.sizes import TARGET, WINDOW, sized
from evidence.real.speed import Speed
from nemo_pi.evaluation.perplexity import PerplexityResult
from nemo_pi.evaluation.perplexity_plan import PerplexityPlan
from nemo_pi.evaluation.results import ModelResults, write_results
from nemo_pi.evaluation.tasks.base import TaskContext
from nemo_pi.evaluation.windows import FULL_CONTEXT


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return open_tokenizer(MODEL)


def test_every_length_scores_the_same_tokens(tokenizer: Any) -> None:
    parts = {part.key: part for part in parts_of(sized(4))}
    texts = parts[f"perplexity-{TARGET}"].documents(tokenizer)
    count = 2048 * len(texts)
    whole = PerplexityPlan.build(texts, LENGTHS, stride=2048, scored=FULL_CONTEXT, max_tokens=count)
    assert len(texts) > 2
    for length in LENGTHS:
        part = parts[f"perplexity-{length}"]
        plan = part.task.plan(TaskContext(tokenizer, part.documents(tokenizer), WINDOW, TARGET)).work
        pairs = list(zip(plan.windows(length), whole.windows(length), strict=True))
        for own, other in pairs:
            read = plan.documents[own.document][own.start : own.start + length + 1]
            theirs = whole.documents[other.document][other.start : other.start + length + 1]
            assert read.equal(theirs) and own.num_scored == other.num_scored == 2048


@pytest.mark.parametrize("times", [0.4, 1, 4])
def test_the_plan_charges_what_the_tasks_read_and_write(tokenizer: Any, times: float) -> None:
    for part in parts_of(sized(times)):
        if part.key == "ruler":
            pytest.importorskip("wonderwords", reason="RULER draws words: pip install -e '.[eval]'")
        documents = part.documents(tokenizer)
        assert len(documents) == part.num_documents, part.key
        cost = part.task.plan(TaskContext(tokenizer, documents, WINDOW, TARGET)).cost
        assert sum(read for read, _ in part.texts()) == pytest.approx(cost.tokens_read, rel=1e-3), part.key
        assert sum(new for _, new in part.texts()) == cost.tokens_generated, part.key


def test_seconds_are_those_of_every_text() -> None:
    """A second a token that is read: twenty for one that is written."""
    pytest.importorskip("wonderwords", reason="RULER draws words: pip install -e '.[eval]'")
    speed = Speed(per_token=1.0, per_pair=0.0, per_step=1.0, threads=1)
    parts = {part.key: part for part in parts_of(sized(1))}
    # Two prompts of each subtask at both lengths; their answers may take 128, 30 and 50 tokens.
    new = 2 * 2 * (128 + 30 + 50)
    assert parts["ruler"].seconds(speed) == 5 + 2 * 3 * (WINDOW + 2 * WINDOW) - new + 20 * new
    assert parts[f"perplexity-{TARGET}"].seconds(speed) == 5 + TARGET


def test_parts_make_one_line(tmp_path: Path) -> None:
    files = []
    for length in LENGTHS[:2]:
        result = PerplexityResult({"summary": "same tokens"}, {length: float(length)})
        file = tmp_path / f"{length}.json"
        files.append(write_results([ModelResults("model", WINDOW, TARGET, {"perplexity": result})], file))
    row = combined("model", [*files, tmp_path / "not measured yet.json"])
    assert row.tasks["perplexity"].by_length == {length: float(length) for length in LENGTHS[:2]}
    assert combined("model", []).tasks == {}
