"""Pass keys as PoSE's and YaRN's scripts ask for them, so that a published rate can be compared with like.

Both draw the key from 1 to 50,000 and its place in the filler uniformly, let the model write ten tokens, and
compare the number that the first digits of these make with the key. They differ in the filler:

    pose  github.com/dwzhu-pku/PoSE, src/eval_passkey.py: whole repetitions without a space between them, as
          many as fit when the parts of the prompt are counted one by one; 50 trials
    yarn  github.com/jquesnelle/yarn, eval/passkey.py: characters, 25 more at a time while the prompt has
          fewer tokens than asked for, cut wherever that is; 10 trials (arXiv 2309.00071, §4.3.2)

Here both are greedy, the tokens of the parts are counted with the model's own tokenizer (PoSE's script has
Llama's counts as constants), and a prompt whose answer might outgrow the target window has less filler.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any

from nemo_pi.errors import DataError
from nemo_pi.evaluation.generation import GenerationRequest
from nemo_pi.evaluation.passkey_result import K_MAX_SHARE, PasskeyGrid
from nemo_pi.evaluation.passkey_text import (
    INSTRUCTION,
    NEEDLE,
    QUESTION,
    SENTENCES,
    TextTokenizer,
    most_that_fit,
    start_ids,
)
from nemo_pi.evaluation.scorer import Scorer
from nemo_pi.evaluation.tasks.base import Progress, TaskContext, batched
from nemo_pi.units import plural

NEW_TOKENS = 10
"""What the model may write."""
_ASKED = INSTRUCTION.replace("memorize it", "memorize them")
_FILLER = " ".join(SENTENCES)
_AT_THE_END = 100
"""Tokens that PoSE's prompt has less at the end of the window, for the answer and what was not counted."""
_STEP = 25
"""Characters by which YaRN's script lengthens its filler."""


@dataclass(frozen=True)
class Evaluator:
    """What one of the scripts does its own way."""

    trials: int
    """Of each length, as published."""
    filler: str
    """In words, for the protocol."""
    step: int
    """What one unit of filler is: repetitions or characters."""
    size: Callable[[TextTokenizer, int, int, int], int]
    """(tokenizer, length, target window, tokens that begin a text) → filler in repetitions or characters;
    below 0: none fits."""
    stretch: Callable[[int], str]
    """So much filler."""
    furthest: str
    """What k_max is, in words."""

    def text(self, size: int, before: int, key: int) -> str:
        """The prompt with `before` of `size` filler ahead of the key."""
        parts = (self.stretch(before), NEEDLE.format(key=key), self.stretch(size - before))
        return "\n".join((_ASKED, *parts, QUESTION))


def _repetitions(tokenizer: TextTokenizer, length: int, window: int, own: int) -> int:
    # BOS is none of the parts that the script counts.
    room = min(length, window - _AT_THE_END)
    parts = (_ASKED, NEEDLE.format(key=12345), QUESTION)
    once = len(tokenizer.encode(_FILLER))
    # Of the second one: what a tokenizer makes of two sentences without a space between them is its own.
    again = max(1, len(tokenizer.encode(_FILLER * 2)) - once)
    return (room - sum(len(tokenizer.encode(part)) for part in parts)) // again


def _characters(tokenizer: TextTokenizer, length: int, window: int, own: int) -> int:
    yarn = EVALUATORS["yarn"]

    def count(steps: int) -> int:
        return own + len(tokenizer.encode(yarn.text(steps * _STEP, 0, 12345)))

    return -1 if count(0) >= length else _STEP * most_that_fit(count, length - 1)


def _cut(characters: int) -> str:
    return (f"{_FILLER} " * (characters // len(_FILLER) + 1))[:characters]


EVALUATORS = {
    "pose": Evaluator(
        trials=50,
        filler=f"whole repetitions of the filler, at the target window {_AT_THE_END} tokens less",
        step=1,
        size=_repetitions,
        stretch=lambda repetitions: _FILLER * repetitions,
        furthest=f"k_max: the longest tested length such that up to it ≥ {K_MAX_SHARE:.0%} succeed at every "
        "length (PI's rule; PoSE gives rates alone)",
    ),
    "yarn": Evaluator(
        trials=10,
        filler=f"filler of a multiple of {_STEP} characters, the most with fewer tokens than the length",
        step=_STEP,
        size=_characters,
        stretch=_cut,
        furthest="k_max: the passkey context, the longest tested length at which ≥ 80% succeed",
    ),
}
"""By the name of the protocol."""


@dataclass(frozen=True)
class EvaluatorKeys:
    """Which prompts are tried; `num_tokens` says what it costs before anything is computed."""

    name: str
    """One of EVALUATORS."""
    lengths: tuple[int, ...]
    """Tokens of the prompts, ascending, each once."""
    num_trials: int
    """Prompts of each length."""
    seed: int
    """Of keys and places."""
    bos: bool
    """Whether prompts begin with what begins a text for the tokenizer."""

    def prompts(self, context: TaskContext, length: int) -> Iterator[tuple[list[int], int]]:
        """Yield (token ids, key) for every trial at a length.

        Raises:
            DataError: a length too short for a prompt.
        """
        evaluator, tokenizer = EVALUATORS[self.name], context.tokenizer
        start = start_ids(tokenizer) if self.bos else ()
        room = context.target_window - NEW_TOKENS
        size = evaluator.size(tokenizer, length, context.target_window, len(start))
        for trial in range(self.num_trials):
            for smaller in range(size, -1, -evaluator.step):
                # Seeded anew, so that place and key do not depend on the tries before; text, for any process.
                rng = random.Random(f"passkey/{self.name}/{self.seed}/{length}/{trial}")
                before, key = rng.randint(0, smaller), rng.randint(1, 50_000)
                ids = [*start, *tokenizer.encode(evaluator.text(smaller, before, key))]
                if len(ids) <= room:
                    break
            else:
                least = len(tokenizer.encode(evaluator.text(0, 0, 12345))) + len(start)
                raise DataError(
                    "passkey length",
                    required=f"more than {least} tokens (a prompt without any filler), and within the window "
                    f"{NEW_TOKENS} more for the answer",
                    given=f"{length} of a target window of {context.target_window}",
                    fix="choose another length",
                )
            yield ids, key

    def num_batches(self, batch_tokens: int) -> int:
        """Return the calls of the scorer with `batch_tokens` tokens in a batch."""
        return sum(ceil(self.num_trials / max(1, batch_tokens // length)) for length in self.lengths)

    @property
    def num_tokens(self) -> int:
        """Tokens the model will read, about: prompts are a little shorter than their length."""
        return sum(self.lengths) * self.num_trials

    @property
    def num_new_tokens(self) -> int:
        """Tokens the model will generate at most."""
        return NEW_TOKENS * len(self.lengths) * self.num_trials

    @property
    def protocol(self) -> dict[str, Any]:
        """Name the measurement, so that no rate stands without it."""
        evaluator, start = EVALUATORS[self.name], "after BOS" if self.bos else "no BOS"
        return {
            "name": self.name,
            "summary": f"as in {self.name}'s script: a number from 1 to 50,000 at a uniform place, "
            f"{evaluator.filler}; {NEW_TOKENS} tokens generated greedily, the first digits are the answer; "
            f"{plural(self.num_trials, 'trial')} at each length (published: {evaluator.trials}), {start}; "
            f"{evaluator.furthest}",
            "lengths": list(self.lengths),
            "num_trials": self.num_trials,
            "seed": self.seed,
            "bos": self.bos,
        }


def run_evaluator(
    scorer: Scorer, context: TaskContext, plan: EvaluatorKeys, progress: Progress
) -> PasskeyGrid:
    """Count the keys that are found at each length, all places together."""
    done, total, successes = 0, plan.num_tokens + plan.num_new_tokens, []
    progress("passkey", done, total)
    request = GenerationRequest(
        NEW_TOKENS,
        stop_ids=context.end_ids,
        decode=context.tokenizer.decode,
        batch_tokens=context.batch_tokens,
    )
    for length in plan.lengths:
        found = 0
        trials = plan.prompts(context, length)
        for batch in batched(trials, max(1, context.batch_tokens // length)):
            texts = scorer.generate([ids for ids, _ in batch], request)
            found += sum(answers(text.text or "", key) for text, (_, key) in zip(texts, batch, strict=True))
            done += (length + NEW_TOKENS) * len(batch)
            progress(f"passkey at {length}", done, total)
        successes.append((found,))
    return PasskeyGrid(plan.lengths, (), plan.num_trials, tuple(successes))


def answers(text: str, key: int) -> bool:
    """Whether the first digits of a text are the key, as a number: leading zeros do not matter."""
    digits = re.search(r"\d+", text)
    return digits is not None and int(digits.group()) == key
