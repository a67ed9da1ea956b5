"""What is measured of how many within a time."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from nemo_pi.advice.rounds import Round, choose, ladders, total
from nemo_pi.advice.speed import Speed, Tally, calls_of, measure_speed
from nemo_pi.errors import ConfigError
from nemo_pi.evaluation.evaluate import run_tasks
from nemo_pi.evaluation.huggingface import HuggingFaceScorer
from nemo_pi.evaluation.tasks.base import TaskContext
from nemo_pi.evaluation.tasks.passkey import Passkey
from tests.unit.evaluation.conftest import ByteTokenizer, llama, llama_folder, scorer  # noqa: F401

WINDOW, TARGET = 16, 64
DOCUMENTS = [[(7 * i + j) % 256 for i in range(200)] for j in range(5)]


@pytest.fixture
def context() -> TaskContext:
    return TaskContext(ByteTokenizer(), DOCUMENTS, WINDOW, TARGET, batch_tokens=64)


def seconds_of(each: Round) -> float:
    """A second a window, ten times as many for everything on top."""
    return each.windows * (2 if each.all_lengths else 1) + 10.0 * (each.trials + each.documents)


def test_where_time_suffices_every_candidate_is_measured_on_everything() -> None:
    (only,) = choose(20, seconds_of, 1e6)
    assert only.candidates == 20 and only.all_lengths and only.trials and only.documents
    assert only.windows == 16


@pytest.mark.parametrize("seconds", [30, 60, 100, 300, 1000, 3000, 10000])
def test_plans_fit_the_time_and_grow_with_it(seconds: float) -> None:
    rounds = choose(20, seconds_of, seconds)
    assert total(rounds, seconds_of) <= seconds
    more = choose(20, seconds_of, 10 * seconds)
    assert sum(each.candidates for each in more) >= 20 or more[0].candidates >= rounds[0].candidates
    assert total(more, seconds_of) >= total(rounds, seconds_of)
    assert all(b.candidates < a.candidates for a, b in pairwise(rounds))


def test_a_cap_on_windows_holds() -> None:
    assert all(each.windows <= 3 for rounds in ladders(20, most_windows=3) for each in rounds)


def test_too_little_time_is_refused_with_a_time_that_suffices() -> None:
    with pytest.raises(ConfigError, match="--minutes") as raised:
        choose(5, lambda _: 600.0, 60.0)
    minutes = int(str(raised.value).partition("To fix: --minutes ")[2].partition(",")[0])
    assert choose(5, lambda _: 600.0, 60.0 * minutes)


def test_cost_is_what_the_scorer_is_really_asked(context: TaskContext, scorer: HuggingFaceScorer) -> None:  # noqa: F811
    """Calls on the tally, beside those that a real model gets."""
    asked: list[tuple[int, int]] = []
    score = scorer.score

    class Watched:
        name = "watched"

        def score(self, tokens, labels, positions):  # type: ignore[no-untyped-def]
            asked.append(tuple(tokens.shape))
            return score(tokens, labels, positions)

    each = Round(1, 2, trials=0, documents=2)
    run_tasks(Watched(), each.planned(context), context)  # type: ignore[arg-type]
    assert calls_of(each.tasks(context), context) == asked
    assert {length for _, length in asked} >= {16, 32, 64}


def test_pass_keys_cost_what_their_documents_would() -> None:
    context = TaskContext(ByteTokenizer(), [[*range(256)] * 9], 512, 2048, batch_tokens=2500)
    each, tally = Round(1, 1, trials=3), Tally()
    assert any(isinstance(task, Passkey) for task in each.tasks(context))
    run_tasks(tally, each.planned(context), context)
    assert calls_of(each.tasks(context), context) == tally.calls


class Slow(Tally):
    """Computes nothing, and takes 2 ms a token and 1 ms a pair on a clock of its own."""

    now = 0.0

    def score(self, tokens, labels, positions):  # type: ignore[no-untyped-def]
        self.now += tokens.numel() * (0.002 + 0.001 * tokens.size(1))
        return super().score(tokens, labels, positions)


def test_speed_solves_for_both_of_its_numbers() -> None:
    slow = Slow()
    speed = measure_speed(slow, torch.arange(60), (10, 40), 80, clock=lambda: slow.now)
    assert speed.per_token == pytest.approx(0.002) and speed.per_pair == pytest.approx(0.001)
    assert speed.seconds([(2, 10), (1, 40)]) == pytest.approx(20 * 0.012 + 40 * 0.042)
    assert Speed(0.002, 0.0).tokens_per_second(999) == pytest.approx(500)


def test_a_slow_model_is_timed_on_less() -> None:
    """The two numbers come out as before; what it takes is near what it may, or that of the shortest rows."""
    text, took = torch.arange(4097), []
    for allowed in (1e9, 1000.0, 0.0):
        slow = Slow()
        speed = measure_speed(slow, text, (1024, 4096), 4096, allowed, clock=lambda: slow.now)  # noqa: B023
        assert speed.per_token == pytest.approx(0.002) and speed.per_pair == pytest.approx(0.001)
        took.append(slow.now)
    assert took[0] > 20_000 and 300 < took[1] < 2000 and took[2] < 200


def test_noise_does_not_make_attention_free() -> None:
    """The longer text took less time than the shorter: a pair costs what its operations say."""
    speed = Speed.through((10, 40), (0.5, 0.4), 0.01)
    assert speed.per_pair == pytest.approx(0.01 * speed.per_token)
    assert speed.seconds([(1, 10)]) / 10 + speed.seconds([(1, 40)]) / 40 == pytest.approx(0.9)
    assert Speed.through((10, 40), (0.3, 0.6), 0.9) == Speed.through((10, 40), (0.3, 0.6))
