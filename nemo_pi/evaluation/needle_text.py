"""One needle at a depth of real prose: the heat map's document, as EasyContext words it."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from nemo_pi.evaluation.ruler.sample import Maker, Sample

CITIES = (
    "Chicago", "Yangon", "Antananarivo", "Colombo", "Almaty", "Sydney", "Seattle", "Lagos", "Amsterdam",
    "Belgrade", "Cairo", "Baghdad", "Damascus", "Kigali", "Dakar", "Sofia", "Victoria", "Tashkent", "Mumbai",
    "Barcelona", "Amman", "Toronto",
)  # fmt: skip
"""Keys of needles."""
NEEDLE = "The special magic {city} number is: {number}."
PROMPT = (
    "This is a very long story book: <book> {context} </book>.\n Based on the content of the book, "
    "Question: What is the special magic {city} number? Answer: The special magic {city} number is:"
)


@dataclass(frozen=True)
class NeedleAtDepth(Maker):
    """A number of seven digits between two sentences of prose."""

    new_tokens = 16
    prose: Sequence[str]
    """Words of the haystack; used over and over where it is too short."""
    depth: float
    """Where the needle lies, 0 beginning to 1 end, rounded to sentences."""

    @property
    def least(self) -> int:
        """A few words."""
        return 8

    def make(self, rng: random.Random, size: int, number: int) -> Sample:
        """`size` words of prose around the needle."""
        city, key = rng.choice(CITIES), str(rng.randint(1_000_000, 9_999_999))
        start = rng.randrange(len(self.prose))
        text = " ".join(self.prose[(start + i) % len(self.prose)] for i in range(size))
        sentences = re.split(r"(?<=[.!?])\s+", text)
        place = round(self.depth * len(sentences))
        parts = [*sentences[:place], NEEDLE.format(city=city, number=key), *sentences[place:]]
        return Sample(PROMPT.format(context=" ".join(parts), city=city), (key,))
