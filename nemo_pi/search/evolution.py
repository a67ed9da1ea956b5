"""LongRoPE's evolutionary search (arXiv 2402.13753, algorithm 1), whatever rates a list of factors."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from nemo_pi.search.factors import Factors, Space

Rate = Callable[[Factors], float]
"""The number of a list that the search makes small: its perplexity."""

_TRIES = 20
"""At a list that has not been rated yet, before a search takes the space around its parents as exhausted."""


@dataclass(frozen=True)
class Evolution:
    """How much is searched; the defaults are the paper's (table 4) and those of the released code."""

    population: int = 64
    """Lists rated first: those of known methods, and mutations of the best of them."""
    iterations: int = 40
    """Rounds after that."""
    mutations: int = 16
    """Lists of a round that mutate a parent."""
    crossovers: int = 16
    """Lists of a round that cross two parents."""
    parents: int = 32
    """Lists that live on, the best ones of all rated so far."""
    seed: int = 1234
    """Of all draws."""

    @property
    def most_ratings(self) -> int:
        """Lists that the whole search rates at most."""
        return self.population + self.iterations * (self.mutations + self.crossovers)


@dataclass(frozen=True)
class Rated:
    """A list and what it was found to be worth."""

    factors: Factors
    """The list."""
    perplexity: float
    """Lower is better."""
    number: int
    """How many were rated before it."""


def evolve(starts: Sequence[Factors], space: Space, settings: Evolution, rate: Rate) -> Iterator[Rated]:
    """Rates one list after another, each once, in an order that follows from the seed and the ratings.

    So a search that was interrupted goes on where it stood if `rate` remembers what it has answered. Whoever
    iterates ends the search by not asking for more.

    Args:
        starts: lists to begin with, at least one of them in the space; others are left out.
        space: where the search may go.
        settings: how much is searched.
        rate: measures a list; a number that is not finite puts it last.
    """
    draws = random.Random(settings.seed)
    rated: list[Rated] = []
    seen: set[Factors] = set()

    def measured(factors: Factors) -> Rated:
        seen.add(factors)
        rated.append(Rated(factors, rate(factors), len(rated)))
        return rated[-1]

    for start in dict.fromkeys(filter(space.holds, starts)):
        yield measured(start)
    # Of the best start alone, as the released code does (by YaRN): a mutant is like what it is made of, and
    # those of Position Interpolation, which nothing but training mends, would be most of what is rated.
    best = [best_of(rated).factors]
    while len(rated) < settings.population:
        new = _unseen(partial(_mutant, space, best, draws), seen)
        if new is None:
            break
        yield measured(new)
    for _ in range(settings.iterations):
        parents = [one.factors for one in sorted(rated, key=_rank)[: settings.parents]]
        for number in range(settings.mutations + settings.crossovers):
            new = None
            if number >= settings.mutations and len(parents) > 1:
                new = _unseen(partial(_child, space, parents, draws), seen)
            # Parents that are too much alike have no children of their own.
            new = new or _unseen(partial(_mutant, space, parents, draws), seen)
            if new is not None:
                yield measured(new)


def best_of(rated: Sequence[Rated]) -> Rated:
    """The lowest perplexity, of equals the first."""
    return min(rated, key=_rank)


def _rank(rated: Rated) -> tuple[bool, float, int]:
    # NaN compares as neither above nor below: it would stop a sort anywhere.
    unknown = rated.perplexity != rated.perplexity
    return unknown, 0.0 if unknown else rated.perplexity, rated.number


def _mutant(space: Space, parents: list[Factors], draws: random.Random) -> Factors:
    return space.mutated(draws.choice(parents), draws)


def _child(space: Space, parents: list[Factors], draws: random.Random) -> Factors:
    # The better one first: it gives most of the child.
    first, second = sorted(draws.sample(range(len(parents)), 2))
    return space.crossed(parents[first], parents[second], draws)


def _unseen(make: Callable[[], Factors], seen: set[Factors]) -> Factors | None:
    return next((new for new in (make() for _ in range(_TRIES)) if new not in seen), None)
