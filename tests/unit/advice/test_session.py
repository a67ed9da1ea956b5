"""Rounds on a real model: who goes on, what is kept, and what happens when time or patience ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nemo_pi.advice.proposals import Asked, Proposal, propose
from nemo_pi.advice.report import ranking_tables
from nemo_pi.advice.rounds import Round
from nemo_pi.advice.session import AS_IT_IS, Outcome, Session, _mixed
from nemo_pi.advice.speed import Speed
from nemo_pi.advice.store import Store
from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.evaluation.evaluate import run_tasks
from nemo_pi.evaluation.huggingface import HuggingFaceScorer
from nemo_pi.evaluation.tasks.base import TaskContext
from nemo_pi.rope.spec import ContextExtension
from tests.unit.advice.test_ranking import standing
from tests.unit.config.builders import summary_of
from tests.unit.evaluation.conftest import ByteTokenizer, llama, llama_folder, scorer  # noqa: F401
from tests.unit.interruptions import interrupted_at

WINDOW, TARGET = 64, 256
DOCUMENTS = [[(7 * i * i + j) % 256 for i in range(400)] for j in range(3)]
FIRST, SECOND, THIRD = Round(4, 1, all_lengths=False), Round(2, 1), Round(1, 2)
THIRD_SAYS = "1 candidate and the model as it is: 2 windows at every length from 64 to 256"
ABOUT = {"checkpoint": "tiny"}


class Clock:
    """Ten seconds a look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 10
        return self.now


@pytest.fixture
def context() -> TaskContext:
    return TaskContext(ByteTokenizer(), DOCUMENTS, WINDOW, TARGET, batch_tokens=256)


@pytest.fixture
def proposals(llama_folder: Path) -> list[Proposal]:  # noqa: F811
    summary = read_summary(llama_folder)
    return propose(summary, Asked(TARGET, methods=["linear", "none", "abf", "yarn"]))[0][:4]


@pytest.fixture
def session(
    context: TaskContext,
    scorer: HuggingFaceScorer,  # noqa: F811
    proposals: list[Proposal],
    tmp_path: Path,
) -> Iterator[Session]:
    base = next(proposal.extension for proposal in proposals if proposal.method == "none")
    yield Session(scorer, base, context, Store(tmp_path / "r.json", ABOUT), Speed(0.001, 0.0), Clock())
    scorer.read_as(ContextExtension.unscaled(WINDOW, 8))  # others share it


def test_the_better_half_goes_on(session: Session, proposals: list[Proposal]) -> None:
    outcome = session.run(proposals, (FIRST, SECOND), 1e9)
    assert [standing.round for standing in outcome.standings] == [1, 1, 0, 0]
    assert [standing.label for standing in outcome.base] == [AS_IT_IS, AS_IT_IS]
    dropped = {each.label: each.loss for each in outcome.standings[2:]}
    first = Store.open(session._store.path, ABOUT)
    kept = [first.result(each.label, FIRST) for each in outcome.standings[:2]]
    assert outcome.left_out == [] and not outcome.stopped
    for label, loss in dropped.items():
        assert loss < float("inf"), label
    assert sum(found is None for found in kept) <= 1  # plain positions are measured as the model as it is


def test_numbers_are_those_of_the_tasks_alone(
    session: Session,
    proposals: list[Proposal],
    context: TaskContext,
    scorer: HuggingFaceScorer,  # noqa: F811
) -> None:
    outcome = session.run(proposals, (SECOND,), 1e9)
    yarn = next(proposal for proposal in proposals if proposal.method == "yarn")
    two = session.run([yarn], (SECOND,), 1e9)
    scorer.read_as(yarn.extension)
    alone = run_tasks(scorer, SECOND.planned(context), context, name=yarn.label)
    assert two.standings[0].results.tasks == alone.tasks
    assert outcome.left_out[0].startswith("not tried, for want of time")


def cut_in_the_second_round(session: Session, proposals: list[Proposal]) -> Outcome:
    """After the model as it is, which is plain positions, too: one of two candidates is reached."""
    outcome = session.run(proposals, (FIRST, SECOND, THIRD), 150)
    assert [standing.round for standing in outcome.base] == [0, 1]
    assert [standing.round for standing in outcome.standings] == [1, 0, 0, 0]
    return outcome


def test_time_ends_before_a_measurement_that_would_not(session: Session, proposals: list[Proposal]) -> None:
    outcome = cut_in_the_second_round(session, proposals)
    (waiting,) = outcome.unreached
    assert outcome.left_out == [
        f"round 2, for want of time: {waiting}",
        f"round 3, for want of time: {THIRD_SAYS}",
    ]


def test_time_that_ends_in_the_first_round_leaves_out_all_others(
    session: Session, proposals: list[Proposal]
) -> None:
    outcome = session.run(proposals, (FIRST, SECOND, THIRD), 30)
    assert [len(outcome.base), len(outcome.standings)] == [1, 1]
    first, second, third = outcome.left_out
    assert first == f"round 1, for want of time: {'; '.join(outcome.unreached)}"
    assert {*outcome.unreached, outcome.standings[0].label} == {proposal.label for proposal in proposals}
    assert second.startswith("round 2, for want of time: 2 candidates and the model as it is: 1 window")
    assert third == f"round 3, for want of time: {THIRD_SAYS}"


def test_who_was_not_reached_is_not_called_dropped(session: Session, proposals: list[Proposal]) -> None:
    outcome = cut_in_the_second_round(session, proposals)
    (waiting,) = outcome.unreached
    ranking, not_reached, dropped = ranking_tables(outcome)
    assert ranking.title.startswith("Ranking: ")
    assert not_reached.title.startswith("Not reached after round 1 of 3")
    assert dropped.title.startswith("Dropped after round 1 of 3")
    names = [[row[0] for row in table.lines[1:]] for table in (ranking, not_reached, dropped)]
    places = {standing.label: place for place, standing in enumerate(outcome.standings, start=1)}
    assert names[1] == [f"{places[waiting]}. {waiting}"] and len(names[2]) == 2
    found = [name for own in names for name in own]
    assert sorted(found) == sorted(f"{place}. {label}" for label, place in places.items())


def test_a_second_start_measures_only_what_is_missing(
    session: Session,
    proposals: list[Proposal],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = session.run(proposals, (FIRST, SECOND), 50)
    measured: list[str] = []
    measure = Session._measure

    def counted(self, label, *rest):  # type: ignore[no-untyped-def]
        measured.append(label)
        return measure(self, label, *rest)

    monkeypatch.setattr(Session, "_measure", counted)
    session._store = Store.open(session._store.path, ABOUT)
    whole = 5 * session.tokens_of(FIRST) + 3 * session.tokens_of(SECOND)
    assert session.left((FIRST, SECOND), session.tokens_of) < whole
    second = session.run(proposals, (FIRST, SECOND), 1e9)
    # Plain positions are one of the candidates, and measured once.
    assert session.left((FIRST,), session.tokens_of) == session.tokens_of(FIRST)
    assert len(measured) + len(first.base) + len(first.standings) >= 7
    assert not {each.label for each in first.standings if each.label != "none (as it is)"} & set(measured[:1])
    assert {each.label for each in second.standings} == {proposal.label for proposal in proposals}
    measured.clear()
    again = session.run(proposals, (FIRST, SECOND), 0.0)
    assert measured == [] and again.standings == second.standings


def test_results_of_something_else_are_not_taken_up(session: Session, proposals: list[Proposal]) -> None:
    session.run(proposals, (FIRST,), 1e9)
    assert Store.open(session._store.path, ABOUT).results
    assert not Store.open(session._store.path, {"checkpoint": "other"}).results
    session._store.path.write_text("{")
    assert not Store.open(session._store.path, ABOUT).results


def test_ctrl_c_keeps_what_is_measured(
    session: Session, proposals: list[Proposal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "_measure", interrupted_at(3, Session._measure))
    outcome: Outcome = session.run(proposals, (FIRST, SECOND), 1e9)
    assert outcome.stopped and len(outcome.base) == 1
    stopped, later = outcome.left_out
    assert stopped == f"round 1, stopped: {'; '.join(outcome.unreached)}"
    assert later.startswith("round 2, stopped: 2 candidates and the model as it is: ")
    assert Store.open(session._store.path, ABOUT).results.keys() >= {AS_IT_IS}


def test_one_method_does_not_fill_the_next_round() -> None:
    """Five of YaRN's read best; after two of them the best of others go on."""
    found, _ = propose(summary_of(), Asked(4096, methods=["linear", "yarn", "ntk"]))
    order = sorted(found, key=lambda proposal: proposal.method, reverse=True)
    standings = [standing(each.label, 10.0 + number, 20.0) for number, each in enumerate(order)]
    methods = [proposal.method for proposal in _mixed(found, standings)]
    assert methods == ["yarn", "yarn", "ntk", "ntk", "linear", "yarn", "yarn", "yarn", "ntk"]
