"""Needles in a haystack: RULER's eight retrieval tasks (arXiv 2404.06654, table 2).

A needle says which value a key has. The haystack is filler, prose, or other needles; some of the keys are
asked for. Templates are the authors', word for word: another wording would be another benchmark.
"""

from __future__ import annotations

import random
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from nemo_pi.evaluation.passkey_text import SENTENCES
from nemo_pi.evaluation.ruler.sample import Maker, Sample

NEEDLE = "One of the special magic {kind} for {key} is: {value}."
TASK = (
    "Some special magic {kind} are hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {kind} afterwards.\n{context}\n"
    "What are all the special magic {kind} for {query} mentioned in the provided text?"
    " The special magic {kind} for {query} mentioned in the provided text are"
)
TASK_OF_ONE = (
    "A special magic {one} is hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {one} afterwards.\n{context}\n"
    "What is the special magic {one} for {query} mentioned in the provided text?"
    " The special magic {one} for {query} mentioned in the provided text is"
)
FILLER = " ".join(SENTENCES)
# Prose is cut at 40 evenly spaced depths, in whole per cent.
_DEPTHS = [round(100 * i / 39) for i in range(40)]


@dataclass(frozen=True)
class Needles(Maker):
    """One of the eight tasks."""

    new_tokens = 128
    adjectives: Sequence[str]
    """First parts of keys that are words."""
    nouns: Sequence[str]
    """Second parts."""
    hay: str
    """filler, prose, or needles."""
    prose: Sequence[str] = ()
    """Words of the haystack of prose; used over and over where it is too short."""
    keys: int = 1
    """Needles with keys of their own."""
    values: int = 1
    """Needles of each key."""
    queries: int = 1
    """Keys that are asked for."""
    key_kind: str = "words"
    """What keys are made of: words or uuids."""
    value_kind: str = "numbers"
    """What values are: numbers or uuids."""

    @property
    def least(self) -> int:
        """As many sentences as needles go between; prose also has to fill 40 depths."""
        return 40 if self.hay == "prose" else self.keys * self.values

    def make(self, rng: random.Random, size: int, number: int) -> Sample:
        """Sentences of filler or needles, or words of prose, as many as `size`."""
        keys = [self._draw(rng, self.key_kind) for _ in range(self.keys)]
        values = [[self._draw(rng, self.value_kind) for _ in range(self.values)] for _ in keys]
        needles = [
            NEEDLE.format(kind=self.value_kind, key=key, value=value)
            for key, own in zip(keys, values, strict=True)
            for value in own
        ]
        rng.shuffle(needles)
        chosen = rng.sample(range(self.keys), self.queries)
        query = _listed([keys[i] for i in chosen])
        answers = tuple(value for i in chosen for value in values[i])
        template = TASK_OF_ONE if self.queries * self.values == 1 else TASK
        context = self._context(rng, needles, size)
        one = self.value_kind.removesuffix("s")
        return Sample(template.format(kind=self.value_kind, one=one, context=context, query=query), answers)

    def _context(self, rng: random.Random, needles: list[str], size: int) -> str:
        if self.hay == "prose":
            return _in_prose(rng, needles, self._some_prose(rng, size))
        sentences = (
            [FILLER] * size if self.hay == "filler" else [self._other_needle(rng) for _ in range(size)]
        )
        places = sorted(rng.sample(range(size), len(needles)), reverse=True)
        for place, needle in zip(places, needles, strict=True):
            sentences.insert(place, needle)
        return "\n".join(sentences)

    def _other_needle(self, rng: random.Random) -> str:
        key, value = (self._draw(rng, kind) for kind in (self.key_kind, self.value_kind))
        return NEEDLE.format(kind=self.value_kind, key=key, value=value)

    def _draw(self, rng: random.Random, kind: str) -> str:
        if kind == "numbers":
            return str(rng.randint(1_000_000, 9_999_999))
        if kind == "uuids":
            return str(uuid.UUID(int=rng.getrandbits(128), version=4))
        return f"{rng.choice(self.adjectives)}-{rng.choice(self.nouns)}"

    def _some_prose(self, rng: random.Random, size: int) -> str:
        # The authors' always begins with the same essay; another beginning each time makes samples differ.
        start = rng.randrange(len(self.prose))
        words = [self.prose[(start + i) % len(self.prose)] for i in range(size)]
        return " ".join(words)


def _in_prose(rng: random.Random, needles: list[str], text: str) -> str:
    sentences = re.split(r"(?<=[.!?])\s+", text.strip())
    cuts = sorted(len(sentences) * depth // 100 for depth in rng.sample(_DEPTHS, len(needles)))
    parts: list[str] = []
    for start, end, needle in zip([0, *cuts], [*cuts, len(sentences)], [*needles, ""], strict=True):
        parts += [" ".join(sentences[start:end]), needle]
    return " ".join(part for part in parts if part)


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])}, and {names[-1]}"
