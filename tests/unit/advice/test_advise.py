"""The bundled model: the ranking that README's table has, and sections that hold what was measured."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest

from nemo_pi.advice import advise
from nemo_pi.advice.proposals import Asked
from nemo_pi.advice.report import as_markdown, as_text
from nemo_pi.advice.rounds import Round
from nemo_pi.advice.session import Outcome, Session
from nemo_pi.advice.speed import Speed
from nemo_pi.advice.store import Store
from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.data.tokenizer import build_tokenizer
from nemo_pi.evaluation.huggingface import HuggingFaceScorer
from nemo_pi.evaluation.tasks.base import TaskContext

ROOT = Path(__file__).resolve().parents[3]
MODEL, HELDOUT = ROOT / "demo" / "model", ROOT / "demo" / "text" / "heldout.jsonl.xz"
TARGET = 4096


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[advise.Case, Outcome, advise.LargestPulls]:
    """One choice of each of the three methods, on a window at 512 and one at 4,096 tokens."""
    case = advise.Case.read(read_summary(MODEL), Asked(TARGET, methods=["linear", "ntk", "yarn"]))
    tokenizer = build_tokenizer("huggingface", str(MODEL))
    with lzma.open(HELDOUT, "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line, _ in zip(lines, range(2), strict=False)]
    documents = [tokenizer.encode(text[:20_000])[: TARGET + 400] for text in texts]
    context = TaskContext(tokenizer, documents, 512, TARGET)
    scorer = HuggingFaceScorer(MODEL, device="cpu")
    pulls = advise.pulls_of(scorer, case, advise.pull_texts(context, Speed(1e-4, 0.0)))
    assert pulls is not None
    store = Store(tmp_path_factory.mktemp("advice") / "results.json", {})
    session = Session(scorer, case.base, context, store, Speed(1e-4, 0.0))
    return case, session.run(case.proposals, (Round(3, 1, all_lengths=False),), float("inf")), pulls


def test_ranks_as_readme_does(measured: tuple[advise.Case, Outcome, advise.LargestPulls]) -> None:
    """Untrained, README: YaRN 31.9 and 32.0 at 512 and 4,096, NTK 31.0 and 50.4, PI 66.6 and 66.5."""
    _, outcome, _ = measured
    assert [standing.label for standing in outcome.standings] == ["yarn", "ntk", "linear"]
    by_label = {standing.label: standing.perplexity for standing in (*outcome.base, *outcome.standings)}
    base = by_label["as it is"]
    assert by_label["yarn"][TARGET] < 1.2 * by_label["yarn"][512] < 1.5 * base[512]
    assert by_label["ntk"][512] < by_label["yarn"][512]
    assert by_label["linear"][512] > 1.8 * base[512]
    assert base[TARGET] > 1.8 * base[512]


def test_sections_say_what_was_measured(
    measured: tuple[advise.Case, Outcome, advise.LargestPulls],
) -> None:
    case, outcome, pulls = measured
    found = advise.sections(case, outcome, pulls, lambda proposal: " ".join(proposal.overrides))
    text, page = as_text(found), as_markdown("Advice", found, None)
    assert max(map(len, text.splitlines())) <= 100
    for part in (
        f"{pulls.largest:.3g}",
        "model.pos_scaling_type=yarn",
        "1,000 steps",
        "not tried, for want of time",
    ):
        assert part in text.replace("\n", " ").replace("  ", " ") and part in page, part
    yarn = next(standing for standing in outcome.standings if standing.label == "yarn")
    assert f"{yarn.perplexity[TARGET]:.2f}" in text


def test_an_empty_outcome_is_said(measured: tuple[advise.Case, Outcome, advise.LargestPulls]) -> None:
    case, _, _ = measured
    text = as_text(advise.sections(case, Outcome(()), None, lambda _: ""))
    assert "Nothing was measured" in text and "Not measured" in text


def test_a_pair_costs_what_its_operations_do() -> None:
    found = advise.pair_share(read_summary(MODEL).shape)
    assert found == pytest.approx(4 * 256 * 2 / (2 * 3.69e6), rel=0.01)


def test_little_time_shortens_the_look_at_queries_and_keys() -> None:
    """Ten tokens a second: a minute is not enough for more than the least."""
    documents = [list(range(9000))] * 5
    tokenizer = build_tokenizer("huggingface", str(MODEL))
    for window, seconds, shape in (
        (8192, float("inf"), (1, 8193)),
        (8192, 2060.0, (1, 2049)),
        (8192, 60.0, (1, 513)),
        (1024, float("inf"), (4, 1025)),
        (512, 1600.0, (3, 513)),
        (512, 60.0, (1, 513)),
    ):
        context = TaskContext(tokenizer, documents, window, 4 * window)
        assert advise.pull_texts(context, Speed(0.1, 0.0), seconds).shape == shape, (window, seconds)
