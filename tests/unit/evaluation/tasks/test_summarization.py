"""Summaries against transformers' own greedy texts, scored by rouge-score directly."""

from __future__ import annotations

import json
import lzma
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from nemo_pi.data.tokenizer import build_tokenizer
from nemo_pi.errors import ConfigError, DataError
from nemo_pi.evaluation.huggingface import HuggingFaceScorer
from nemo_pi.evaluation.tasks.base import Measured, TaskContext
from nemo_pi.evaluation.tasks.summarization import KINDS, Summaries, Summarization

ROOT = Path(__file__).resolve().parents[4]
BUNDLED = ROOT / "demo" / "model"
NEW = 12


@pytest.fixture(scope="module")
def scorer() -> HuggingFaceScorer:
    return HuggingFaceScorer(BUNDLED, device="cpu")


@pytest.fixture(scope="module")
def context() -> TaskContext:
    return TaskContext(build_tokenizer("huggingface", str(BUNDLED)), [], 128, 256)


@pytest.fixture(scope="module")
def pairs() -> list[tuple[str, str]]:
    with lzma.open(ROOT / "demo" / "text" / "heldout.jsonl.xz", "rt", encoding="utf-8") as file:
        words = json.loads(file.readline())["text"].split()
    # A short report, two that are cut, and one that is cut at the shorter length alone.
    sizes = (400, 20, 500, 110)
    return [
        (" ".join(words[i * 600 : i * 600 + size]), " ".join(words[i * 600 + 300 : i * 600 + 360]))
        for i, size in enumerate(sizes)
    ]


@pytest.fixture(scope="module")
def reports(pairs: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reports") / "govreport.jsonl"
    lines = [json.dumps({"report": report, "summary": summary}) for report, summary in pairs]
    path.write_text("\n\n".join(lines) + "\n")
    return path


def test_equals_rouge_score_of_transformers_texts(
    pairs: list[tuple[str, str]], reports: Path, context: TaskContext, scorer: HuggingFaceScorer
) -> None:
    greedy = Summarization(str(reports), summary_tokens=NEW, temperature=0.0, top_p=None)
    task = replace(greedy, max_document_tokens=200)
    plan = task.plan(context)
    calls: list[tuple[int, int]] = []
    result = task.run(scorer, plan, lambda what, done, total: calls.append((done, total)))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(BUNDLED)
    model = AutoModelForCausalLM.from_pretrained(BUNDLED, dtype=torch.float32).eval()
    rouge = RougeScorer(["rouge1", "rouge2", "rougeL"])

    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    before = ids("Read the following article and then summarize it.\n")
    behind = ids("\nNow summarize the above article.\nSummary:")
    for length in (128, 256):
        scores = []
        for report, summary in pairs:
            document = ids(report)[: min(200, length - len(before) - len(behind) - NEW)]
            prompt = torch.tensor([[*before, *document, *behind]])
            text = model.generate(prompt, max_new_tokens=NEW, do_sample=False)[0, prompt.size(1) :]
            scores.append(rouge.score(summary, tokenizer.decode(text, skip_special_tokens=True)))
        for kind in KINDS:
            expected = sum(score[kind].fmeasure for score in scores) / len(scores)
            assert result.scores[length][kind] == pytest.approx(expected, abs=1e-12)
    assert max(own["rouge1"] for own in result.scores.values()) > 0
    assert calls[-1] == (plan.cost.tokens, plan.cost.tokens) and len(calls) == 1 + plan.cost.batches
    assert plan.cost.tokens_generated == 2 * len(pairs) * NEW
    assert "200 tokens" in result.protocol["summary"] and "greedy" in result.protocol["summary"]


def test_draws_do_not_depend_on_batches(
    reports: Path, context: TaskContext, scorer: HuggingFaceScorer, tmp_path: Path
) -> None:
    task = Summarization(str(reports), summary_tokens=NEW, lengths=(128,), samples=3)
    results = []
    for batch_tokens in (1, 8192):
        own = replace(context, batch_tokens=batch_tokens)
        results.append(task.run(scorer, task.plan(own), lambda *_: None))
    assert results[0] == results[1] and results[0].num_documents == 3
    other = replace(task, seed=5)
    assert other.run(scorer, other.plan(context), lambda *_: None).scores != results[0].scores
    assert Summaries.from_json(json.loads(json.dumps(results[0].to_json()))) == results[0]
    models = [Measured("one", 128, 256, results[0]), Measured("none", 128, 256, None)]
    table = Summarization.table(models)
    assert table.header == ("model", "128 1", "128 2", "128 L") and table.lines[1][1:] == ("–",) * 3
    assert (Summarization.plot(models, tmp_path / "rouge.png") or tmp_path).stat().st_size > 10_000


def test_other_keys_and_lines_that_unicode_would_break(context: TaskContext, tmp_path: Path) -> None:
    path = tmp_path / "scrolls.jsonl"
    line = {"input": "One line.\u2028Another one.", "output": "Lines."}
    path.write_text(json.dumps(line, ensure_ascii=False), encoding="utf-8")
    task = Summarization(str(path), document_key="input", summary_key="output", summary_tokens=NEW)
    assert task.plan(context).work.references[256] == ["Lines."]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"summary_tokens": 0}, "summary_tokens"),
        ({"samples": 0}, "samples"),
        ({"lengths": ()}, "lengths"),
        ({"top_p": 2.0}, "top_p"),
    ],
)
def test_arguments_that_cannot_be_are_refused(wrong: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=f"^{field}"):
        Summarization("reports.jsonl", **wrong)


def test_what_is_missing_is_said_before_a_model_is_loaded(
    reports: Path, context: TaskContext, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="reports: required JSON lines"):
        Summarization().plan(context)
    with pytest.raises(DataError, match="a file of reports"):
        Summarization(str(tmp_path / "none.jsonl")).plan(context)
    with pytest.raises(DataError, match=r"more than 1,0.. tokens"):
        Summarization(str(reports)).plan(context)
    with pytest.raises(DataError, match="lengths"):
        Summarization(str(reports), summary_tokens=NEW, lengths=(20, 256)).plan(context)
    with pytest.raises(DataError, match=r"govreport.jsonl:1: .*document_key.*'input'"):
        Summarization(str(reports), document_key="input", summary_tokens=NEW).plan(context)


def test_what_is_not_given_is_as_position_interpolation_s_authors_had_it(reports: Path) -> None:
    """arXiv 2306.15595, section 3.5: the article after its prompt, at most 1,000 tokens of summary."""
    task = Summarization(str(reports))
    assert (task.summary_tokens, task.max_document_tokens) == (1000, 15_000)
    assert (task.temperature, task.top_p) == (0.5, 0.95)
