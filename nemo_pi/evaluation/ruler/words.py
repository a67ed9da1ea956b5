"""RULER's aggregation: the most common words of a list and of a coded text (arXiv 2404.06654, §3.3)."""

from __future__ import annotations

import math
import random
import string
from collections.abc import Sequence
from dataclasses import dataclass

from nemo_pi.evaluation.ruler.sample import Maker, Sample

COMMON = (
    "Below is a numbered list of words. In these words, some appear more often than others. "
    "Memorize the ones that appear most often.\n{context}\n"
    "Question: What are the 10 most common words in the above list?"
    " Answer: The top 10 words that appear most often in the list are:"
)
FREQUENT = (
    "Read the following coded text and track the frequency of each coded word. "
    "Find the three most frequently appeared coded words. {context}\n"
    "Question: Do not provide any explanation. Please ignore the dots '....'. "
    "What are the three most frequently appeared words in the above coded text?"
    " Answer: According to the coded text above, the three most frequently appeared words are:"
)
_TEN = 10
_SHORT = 4096
"""Tokens below which lists repeat their words less often."""
_ZETA_2 = math.pi**2 / 6


@dataclass(frozen=True)
class CommonWords(Maker):
    """Ten words many times among words that appear seldom, behind an example that is solved."""

    new_tokens = 120
    words: Sequence[str]
    """What lists are drawn from."""
    length: int
    """Tokens of prompt and answer; short ones repeat words less often."""

    @property
    def least(self) -> int:
        """The common ones and one other."""
        return _TEN + 1

    @property
    def most(self) -> int:
        """Each word once."""
        return len(self.words)

    def make(self, rng: random.Random, size: int, number: int) -> Sample:
        """`size` words, common and other ones."""
        short = self.length < _SHORT
        example, common = self._question(rng, 20 if short else 40, 3 if short else 10, 1 if short else 3)
        question, answers = self._question(rng, size, 6 if short else 30, 1 if short else 3)
        return Sample(f"{example}{_numbered(common)}\n{question}", tuple(answers))

    def _question(self, rng: random.Random, size: int, often: int, seldom: int) -> tuple[str, list[str]]:
        drawn = rng.sample(self.words, size)
        common, others = drawn[:_TEN], drawn[_TEN:]
        every = common * often + others * seldom
        rng.shuffle(every)
        return COMMON.format(context=_numbered(every)), common


def _numbered(words: Sequence[str]) -> str:
    return " ".join(f"{i}. {word}" for i, word in enumerate(words, start=1))


@dataclass(frozen=True)
class FrequentWords(Maker):
    """Made-up words whose frequencies fall with the square of their rank; the first rank is dots."""

    new_tokens = 50
    length: int
    """Tokens of prompt and answer: one made-up word for every 50."""

    @property
    def least(self) -> int:
        """So many that the fourth rank appears once."""
        return 40

    def make(self, rng: random.Random, size: int, number: int) -> Sample:
        """About `size` words."""
        names: set[str] = set()
        while len(names) < max(self.length // 50, 5):
            names.add("".join(rng.choices(string.ascii_lowercase, k=6)))
        ranked = sorted(names)
        rng.shuffle(ranked)
        ranked[0] = "..."
        counts = [int(size / rank**2 / _ZETA_2) for rank in range(1, len(ranked) + 1)]
        every = [word for word, count in zip(ranked, counts, strict=True) for _ in range(count)]
        rng.shuffle(every)
        return Sample(FREQUENT.format(context=" ".join(every)), tuple(ranked[1:4]))
