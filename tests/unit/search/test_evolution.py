"""The evolutionary search on a function whose minimum is known."""

from __future__ import annotations

import math
from itertools import islice

import pytest

from nemo_pi.search.evolution import Evolution, Rated, best_of, evolve
from nemo_pi.search.factors import Factors, Space

BEST = (100, 130, 200, 310, 480, 700)
STARTS = [(800,) * 6, (100, 200, 300, 400, 500, 800)]
SPACE = Space.of(8.0)
SMALL = Evolution(population=12, iterations=10, mutations=4, crossovers=4, parents=6, seed=7)


def distance(factors: Factors) -> float:
    return sum(abs(mine - best) for mine, best in zip(factors, BEST, strict=True))


def test_it_comes_closer_rates_no_list_twice_and_says_how_many_it_rates() -> None:
    rated = list(evolve(STARTS, SPACE, SMALL, distance))
    assert [one.factors for one in rated[:2]] == STARTS
    assert [one.number for one in rated] == list(range(len(rated)))
    assert len({one.factors for one in rated}) == len(rated) == SMALL.most_ratings == 12 + 10 * 8
    assert best_of(rated).perplexity < 0.6 * best_of(rated[:12]).perplexity
    assert all(SPACE.holds(one.factors) for one in rated)


def test_the_first_population_is_made_of_the_best_start() -> None:
    first = list(evolve(STARTS, SPACE, SMALL, distance))[: SMALL.population]
    # A mutant of factors that are alike keeps them all but the outer ones.
    assert STARTS[1] == min(STARTS, key=distance)
    assert not any(one.factors[1:-1] == STARTS[0][1:-1] for one in first[len(STARTS) :])


def test_the_seed_decides() -> None:
    def lists(seed: int) -> list[Factors]:
        settings = Evolution(12, 3, 4, 4, 6, seed=seed)
        return [one.factors for one in evolve(STARTS, SPACE, settings, distance)]

    assert lists(1) == lists(1) != lists(2)


def test_interrupted_it_goes_the_same_way_on_where_ratings_are_remembered() -> None:
    remembered: dict[Factors, float] = {}
    measured: list[Factors] = []

    def rate(factors: Factors) -> float:
        if factors not in remembered:
            measured.append(factors)
            remembered[factors] = distance(factors)
        return remembered[factors]

    whole = list(evolve(STARTS, SPACE, SMALL, distance))
    assert len(list(islice(evolve(STARTS, SPACE, SMALL, rate), 37))) == 37
    assert list(evolve(STARTS, SPACE, SMALL, rate)) == whole
    assert measured == [one.factors for one in whole]


def test_a_child_is_made_of_the_best_two() -> None:
    starts = [*STARTS, (100, 110, 120, 130, 140, 150), (900,) * 6]
    first, second = sorted(starts, key=distance)[:2]
    for seed in range(20):
        settings = Evolution(population=4, iterations=1, mutations=0, crossovers=1, parents=2, seed=seed)
        child = list(evolve(starts, SPACE, settings, distance))[4].factors
        assert all(mine in pair for mine, *pair in zip(child, first, second, strict=True))


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_what_cannot_be_measured_comes_last(broken: float) -> None:
    rated = list(evolve(STARTS, SPACE, SMALL, lambda f: broken if f in STARTS else distance(f)))
    assert best_of(rated).factors not in STARTS
    assert best_of([Rated((1,), broken, 0), Rated((2,), 9.0, 1)]).factors == (2,)


def test_a_space_of_few_lists_ends_the_search() -> None:
    rated = list(evolve([(100, 100)], Space(largest=101), SMALL, distance_of_two))
    assert {one.factors for one in rated} == {(100, 100), (100, 101), (101, 101)}


def distance_of_two(factors: Factors) -> float:
    return float(sum(factors))
