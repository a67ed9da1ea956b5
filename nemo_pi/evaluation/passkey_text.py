"""The passkey document: five random digits hidden in filler, of exactly the wanted number of tokens.

The task of Mohtashami and Jaggi (arXiv 2305.16300), used by the Position Interpolation paper (arXiv
2306.15595, §3.3.1). A document is

    instruction / filler / "The pass key is 12345. Remember it. 12345 is the pass key." / filler / question /
    answer

on lines of their own. The filler is five short sentences over and over; the passkey falls between two of
them. The exact length comes from where the filler begins: after the instruction it may start in the middle
of a sentence, between words if that is enough, else within a word. Nothing else of the document depends on
the wanted length.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from nemo_pi.errors import ConfigError, DataError

INSTRUCTION = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. "
    "I will quiz you about the important information there."
)
SENTENCES = (
    "The grass is green.",
    "The sky is blue.",
    "The sun is yellow.",
    "Here we go.",
    "There and back again.",
)
NEEDLE = "The pass key is {key}. Remember it. {key} is the pass key."
QUESTION = "What is the pass key? The pass key is"

_CYCLE = " ".join(SENTENCES)
# What may stand before the first whole sentence: ends of the cycle, whole words first, then any character.
_WORD_ENDS = tuple(_CYCLE.split(" ", n)[n] for n in range(_CYCLE.count(" "), 0, -1))
_ENDS = ("", *_WORD_ENDS, *(_CYCLE[-n:] for n in range(1, len(_CYCLE))))


class TextTokenizer(Protocol):
    """The part of a tokenizer that evaluation needs. `encode` adds no special tokens."""

    @property
    def bos_id(self) -> int | None:
        """The token that begins a text, or None."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of the text's tokens."""


@dataclass(frozen=True)
class PasskeyDocument:
    """A document whose last tokens are the answer."""

    text: str
    """All of it, the answer included."""
    token_ids: tuple[int, ...]
    """Its tokens: exactly as many as were asked for, answer and beginning-of-text token included."""
    num_answer_tokens: int
    """How many of them, at the end, are the answer."""
    key: str
    """The five digits."""
    depth: float
    """Where the passkey lies in the filler: 0 right after the instruction, 1 right before the question."""


def passkey_document(
    tokenizer: TextTokenizer,
    length: int,
    trial: int,
    *,
    seed: int,
    depth: float | None = None,
    bos: bool = False,
) -> PasskeyDocument:
    """The document of one trial: a pure function of (seed, length, trial) and of what else is given.

    Args:
        tokenizer: whose tokens are counted.
        length: tokens of the whole document, the answer (and bos, if asked for) included, so that a model
            with a window of `length` reads and answers it without passing its window.
        trial: the number of the trial.
        seed: of the experiment.
        depth: in [0, 1], rounded to whole filler sentences; None draws it uniformly.
        bos: begin with `start_ids`.

    Raises:
        DataError: a length too short for a document, or that this tokenizer cannot hit exactly.
        ConfigError: a depth outside [0, 1], or bos from a tokenizer that has none.
    """
    # random() of a text seed is the same on every machine and Python version, and across processes.
    rng = random.Random(f"passkey/{seed}/{length}/{trial}")
    key, random_depth = f"{int(rng.random() * 100_000):05}", rng.random()
    depth = random_depth if depth is None else depth
    if not 0 <= depth <= 1:
        raise ConfigError("depth", required="from 0 (beginning) to 1 (end)", given=depth, fix="give e.g. 0.5")
    prefix = start_ids(tokenizer) if bos else ()
    text = _fit(key, depth, tokenizer, length - len(prefix))
    token_ids = tokenizer.encode(text)
    # Where the answer begins depends on the tokenizer: the space before it may belong to its first token.
    num_shared = _common_prefix(token_ids, tokenizer.encode(text.removesuffix(f" {key}")))
    return PasskeyDocument(text, (*prefix, *token_ids), len(token_ids) - num_shared, key, depth)


def start_ids(tokenizer: TextTokenizer) -> tuple[int, ...]:
    """What begins a text: what the tokenizer itself puts there, else its beginning-of-text token.

    Raises:
        ConfigError: the tokenizer has neither.
    """
    own: tuple[int, ...] = getattr(tokenizer, "start_ids", ())  # a tokenizer of a task's need not say
    if own:
        return own
    if tokenizer.bos_id is None:
        raise ConfigError(
            "add_bos",
            required="a tokenizer with a beginning-of-text token",
            given="none",
            fix="set it to false",
        )
    return (tokenizer.bos_id,)


def shortest_length(tokenizer: TextTokenizer, bos: bool = False) -> int:
    """Return a length in tokens from which on documents with some filler exist, whatever their key."""
    keys = (f"{digit * 11111:05}" for digit in range(10))
    bare = max(len(tokenizer.encode(_build(key, 0, 0))) for key in keys)
    # Keys of mixed digits may take more tokens than those of one digit, at most one per digit and mention.
    return bare + 15 + len(tokenizer.encode(_CYCLE)) + (len(start_ids(tokenizer)) if bos else 0)


def _build(key: str, before: int, after: int, ragged: str = "") -> str:
    filler = itertools.cycle(SENTENCES)
    leading = " ".join(part for part in (ragged, *itertools.islice(filler, before)) if part)
    trailing = " ".join(itertools.islice(filler, after))
    lines = (INSTRUCTION, leading, NEEDLE.format(key=key), trailing, f"{QUESTION} {key}")
    return "\n".join(line for line in lines if line)


def _fit(key: str, depth: float, tokenizer: TextTokenizer, length: int) -> str:
    """Return a text of exactly `length` tokens, with as few encodings of whole long texts as possible."""

    @cache  # a long text takes a tokenizer long, and is asked for more than once
    def count(before: int, after: int, ragged: str = "") -> int:
        return len(tokenizer.encode(_build(key, before, after, ragged)))

    def split(num_sentences: int) -> tuple[int, int]:
        return (before := round(depth * num_sentences)), num_sentences - before

    if count(0, 0) > length:
        raise _cannot_fit(length, f"at least {count(0, 0)} tokens (a document without any filler)")
    most = most_that_fit(lambda num_sentences: count(*split(num_sentences)), length)
    for num_sentences in range(most, max(most - len(SENTENCES), -1), -1):
        before, after = split(num_sentences)
        missing = length - count(before, after)
        # The filler's first words cost the same tokens in a short text, unless the tokenizer looks far.
        short = min(before, len(SENTENCES)), min(after, len(SENTENCES))
        bare = count(*short)
        for ragged in _ENDS:
            if count(*short, ragged) - bare == missing and count(before, after, ragged) == length:
                return _build(key, before, after, ragged)
    raise _cannot_fit(length, "a length that cutting the filler can hit with this tokenizer")


def most_that_fit(count: Callable[[int], int], length: int) -> int:
    """Return the most pieces of filler that keep a text within `length` tokens, by few encodings of it.

    Args:
        count: pieces → tokens of the text; it grows by about as much for every len(SENTENCES) pieces.
        length: at least count(0).
    """
    cycle = len(SENTENCES)
    # A guess from what one more cycle costs, corrected by counting: each count encodes a whole text.
    per_cycle = max(1, count(2 * cycle) - count(cycle))
    guess = max(0, length - count(0)) * cycle // per_cycle
    while (excess := count(guess) - length) > 0:
        guess = max(0, guess - max(1, excess * cycle // per_cycle))
    while count(guess + 1) <= length:
        guess += 1
    return guess


def _cannot_fit(length: int, required: str) -> DataError:
    return DataError("passkey length", required=required, given=length, fix="choose another length")


def _common_prefix(first: list[int], second: list[int]) -> int:
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
