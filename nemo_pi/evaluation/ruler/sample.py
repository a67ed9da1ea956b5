"""One prompt of RULER, and how it is made as long as wanted."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from nemo_pi.errors import DataError
from nemo_pi.units import plural

# Encodings of whole prompts at most, and the part of the room (one in so many) that may stay empty: one of
# 128k tokens takes a tenth of a second, and there are thousands of them.
_TRIES, _CLOSE = 8, 50
_DRAWS = 20


@dataclass(frozen=True)
class Sample:
    """A prompt and what its answer must hold."""

    prompt: str
    """All of it, to be continued with the answer."""
    answers: tuple[str, ...]
    """Texts that the answer is searched for, whatever their case."""
    token_ids: tuple[int, ...] = ()
    """Of the prompt, where its length was measured: it need not be encoded again."""


class Maker(ABC):
    """Makes the prompts of one of RULER's tasks from random numbers and a size.

    The size counts what the task repeats (sentences, words, paragraphs); a larger one makes a longer prompt.
    """

    new_tokens: ClassVar[int]
    """Tokens that an answer may take."""
    any_of: ClassVar[bool] = False
    """Whether one of the answers suffices; else the score is the part of them that was found."""

    @property
    @abstractmethod
    def least(self) -> int:
        """The smallest size."""

    @property
    def most(self) -> int | None:
        """The largest size that there is material for; None: any."""
        return None

    @abstractmethod
    def make(self, rng: random.Random, size: int, number: int) -> Sample:
        """Makes one prompt.

        Args:
            rng: where all chance comes from.
            size: how much is repeated.
            number: of the sample, for tasks that ask one question after the other.
        """

    def score(self, text: str, answers: tuple[str, ...]) -> float:
        """What an answer is worth: from 0 to 1."""
        found = [answer.lower() in text.lower() for answer in answers]
        return float(any(found)) if self.any_of else sum(found) / len(found)


def fitted(
    maker: Maker,
    encode: Callable[[str], Sequence[int]],
    room: int,
    seed: str,
    number: int,
    guess: int | None = None,
) -> tuple[Sample, int]:
    """The longest prompt of a maker that keeps within `room` tokens, by few encodings; and its size.

    Args:
        maker: of the task.
        encode: token ids of a text.
        room: tokens that the prompt may have.
        seed: of the sample; each size is made of the same random numbers.
        number: of the sample.
        guess: the size of a sample as long, where one is known.

    Raises:
        DataError: even the smallest is too long.
    """

    def make(size: int) -> tuple[Sample, int]:
        sample = maker.make(random.Random(seed), size, number)
        ids = tuple(encode(sample.prompt))
        return replace(sample, token_ids=ids), len(ids)

    size, first = maker.least, seed
    for again in range(_DRAWS):
        # Where hardly anything fits, other words may take fewer tokens.
        seed = f"{first}/{again}" if again else first
        best, tokens = make(size)
        if tokens <= room:
            break
    else:
        raise DataError(
            "lengths",
            required=f"at least {tokens + maker.new_tokens} tokens for the shortest prompt and its answer",
            given=plural(room + maker.new_tokens, "token"),
            fix="leave the length or the subtask out",
        )
    if guess is None:
        _, more = make(2 * size + 8)
        guess = size + int((room - tokens) * (size + 8) / max(more - tokens, 1))
    ceiling = maker.most + 1 if maker.most is not None else None
    for _ in range(_TRIES):
        wanted = guess if ceiling is None else min(guess, ceiling - 1)
        if wanted <= size:
            break
        found, taken = make(wanted)
        if taken <= room:
            best, size = found, wanted
            if (room - taken) * _CLOSE <= room:
                break
            guess = wanted + max(1, int((room - taken) * wanted / taken))
        else:
            ceiling = wanted
            # Too long once more would cost another encoding: a little more than the excess is taken off.
            guess = max(size + 1, wanted - max(1, int((taken - room) * 1.02 * wanted / taken)))
    return best, size
