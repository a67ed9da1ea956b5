"""RULER's variable tracking: which variables a chain of assignments gives one value (arXiv 2404.06654)."""

from __future__ import annotations

import random
import string
from dataclasses import dataclass
from itertools import pairwise

from nemo_pi.evaluation.ruler.niah import FILLER
from nemo_pi.evaluation.ruler.sample import Maker, Sample

TASK = (
    "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n{context}\n"
    "Question: Find all variables that are assigned the value {value} in the text above."
)
ANSWER = (
    " Answer: According to the chain(s) of variable assignment in the text above, {count} variables are "
    "assgined the value {value}, they are: "
)
"""Spelled as the authors spell it."""
# The authors fill the example to 500 tokens: fifteen sentences in English of most tokenizers.
_EXAMPLE_SENTENCES, _EXAMPLE_LETTERS, _LETTERS = 15, 3, 5


@dataclass(frozen=True)
class VariableTracking(Maker):
    """One chain hidden in filler, behind a short example that is solved."""

    new_tokens = 30
    hops: int = 4
    """Assignments after the first."""

    @property
    def least(self) -> int:
        """More sentences than assignments."""
        return self.hops + 2

    def make(self, rng: random.Random, size: int, number: int) -> Sample:
        """`size` sentences of filler around the chain."""
        example, found = self._question(rng, _EXAMPLE_SENTENCES, _EXAMPLE_LETTERS)
        question, answers = self._question(rng, size, _LETTERS)
        return Sample(f"{example}{' '.join(found)}\n\n{question.rstrip()}", answers)

    def _question(self, rng: random.Random, size: int, letters: int) -> tuple[str, tuple[str, ...]]:
        names: list[str] = []
        while len(names) <= self.hops:
            name = "".join(rng.choices(string.ascii_uppercase, k=letters))
            if name not in names:
                names.append(name)
        value = rng.randint(10_000, 99_998)
        chain = [f"VAR {names[0]} = {value}"]
        chain += [f"VAR {after} = VAR {before} " for before, after in pairwise(names)]
        sentences = [FILLER + "\n"] * size
        places = sorted(rng.sample(range(size), len(chain)))
        for done, (place, assignment) in enumerate(zip(places, chain, strict=True)):
            sentences.insert(place + done, assignment)
        context = " ".join(sentences).replace(". \n", ".\n")
        text = TASK.format(context=context, value=value) + ANSWER.format(count=len(names), value=value)
        return text, tuple(names)
