"""Documents by length: read oftener or more rarely, as corpora for long windows are made.

UltraLong (arXiv 2504.06214) takes fewer documents below 4k tokens and more above 8k; ProLong (2410.02660) and
OLMo 3 (2512.13961) set how much of their text is long. Here every document of a class is read `weight` times
in a pass over the corpus. Of a fraction, so many documents are drawn once, by the stream's key alone: every
pass, rank and resumed run reads the same ones.

Shape legend: D documents, N documents as read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemo_pi.data.order import Key, permutation
from nemo_pi.errors import ConfigError
from nemo_pi.rope.validation import is_finite
from nemo_pi.units import grouped

Ints = NDArray[np.int64]

FIELD = "model.data.length_weights"
MOST = 100.0
"""The largest weight: a list of documents that is a hundred times as long has an end."""
# It ends the keys, as order.py's purposes do, and is none of those.
_CHOSEN = 3


@dataclass(frozen=True)
class LengthWeights:
    """Classes of documents by their tokens, and how often each is read in a pass."""

    bounds: tuple[int, ...]
    """Tokens of the shortest document of each class: 0, then rising."""
    weights: tuple[float, ...]
    """Of each class, 0 to 100."""

    def class_of(self, lengths_D: Ints) -> Ints:
        """Class [D] of each document."""
        return np.searchsorted(np.array(self.bounds), lengths_D, side="right") - 1

    def chosen(self, lengths_D: Ints, key: Key) -> Ints:
        """Numbers [N] of the documents to read, rising, each as often as it is read in a pass.

        Args:
            lengths_D: tokens of each document, its end included.
            key: names the stream: (seed, split, corpus).
        """
        class_D = self.class_of(lengths_D)
        times_D = np.zeros(len(lengths_D), dtype=np.int64)
        for number, (bound, weight) in enumerate(zip(self.bounds, self.weights, strict=True)):
            members = np.flatnonzero(class_D == number)
            whole = math.floor(weight)
            times_D[members] = whole
            extra = round((weight - whole) * len(members))
            # By the bound, so that other classes and their weights have no say in which these are.
            times_D[members[permutation(len(members), (*key, bound, 0, _CHOSEN))[:extra]]] += 1
        return np.repeat(np.arange(len(lengths_D)), times_D)

    def labels(self) -> list[str]:
        """What people call each class."""
        ends = [*self.bounds[1:], None]
        return [
            f"{grouped(low)} or more"
            if high is None
            else f"below {grouped(high)}"
            if low == 0
            else f"{grouped(low)} to {grouped(high - 1)}"
            for low, high in zip(self.bounds, ends, strict=True)
        ]

    def tokens(self, lengths: Ints) -> Ints:
        """Tokens in each class of documents of these lengths."""
        return np.bincount(self.class_of(lengths), weights=lengths, minlength=len(self.bounds)).astype(
            np.int64
        )


def parse_length_weights(value: Any) -> LengthWeights | None:
    """Read `{4096: 0.5, 8192: 3}`: documents from so many tokens on, up to the next number; null is None.

    Below the smallest number, weights are 1.

    Raises:
        ConfigError: anything but whole numbers of tokens with weights, or nothing that would be read.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping) or not value:
        raise _refused("a section of tokens and weights", f"{value!r}"[:200])
    pairs: dict[int, float] = {}
    for given, weight in value.items():
        bound = _tokens(given)
        if bound is None or bound in pairs:
            raise _refused("each a whole number of tokens, once", f"the key {given!r}")
        if not is_finite(weight) or not 0 <= weight <= MOST:
            raise _refused(f"weights from 0 to {MOST:g}", f"{given}: {weight!r}"[:200])
        pairs[bound] = float(weight)
    pairs.setdefault(0, 1.0)
    if not any(pairs.values()):
        raise _refused("a weight above 0", "only weights of 0")
    bounds = tuple(sorted(pairs))
    return LengthWeights(bounds, tuple(pairs[bound] for bound in bounds))


def _tokens(given: Any) -> int | None:
    """A class's bound from a YAML's key: the command line makes texts of numbers."""
    if isinstance(given, str) and given.isascii() and given.isdigit() and len(given) < 16:
        given = int(given)
    whole = isinstance(given, int) and not isinstance(given, bool)
    return given if whole and 0 <= given < 2**62 else None


def _refused(required: str, given: str) -> ConfigError:
    return ConfigError(
        FIELD,
        required=required,
        given=given,
        fix=f"'{FIELD}={{0: 0.5, 4096: 1, 8192: 3}}' reads half of the documents below 4,096 tokens, and "
        "three times those from 8,192 on",
    )
