"""``data_prefix`` and ``splits_string``: which documents of which corpora, in what proportions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_pi.errors import ConfigError

SPLITS = ("train", "validation", "test")
"""The three splits, in the order of ``splits_string``."""


@dataclass(frozen=True)
class Blend:
    """Corpora and their shares."""

    prefixes: tuple[str, ...]
    """Paths without extension."""
    weights: tuple[float, ...]
    """Share of the samples that each corpus gives; they add up to 1."""


def parse_prefix(value: Any, field: str = "model.data.data_prefix") -> Blend:
    """Read ``/a``, ``[/a]``, ``[0.3, /a, 0.7, /b]`` or ``[/a, /b]`` (equal shares) as a blend.

    Raises:
        ConfigError: a list of another form, or a weight that is no positive number.
    """
    if isinstance(value, (str, Path)):
        return Blend((str(value),), (1.0,))
    if not isinstance(value, Sequence) or not value:
        raise _bad_prefix(field, value)
    items = list(value)
    numbers = [_number(item) for item in items]
    if all(
        number is None and isinstance(item, (str, Path)) for number, item in zip(numbers, items, strict=True)
    ):
        return Blend(tuple(map(str, items)), (1.0 / len(items),) * len(items))
    weights, prefixes = numbers[0::2], items[1::2]
    are_paths = all(isinstance(prefix, (str, Path)) for prefix in prefixes)
    if len(items) % 2 or not are_paths or any(number is not None for number in numbers[1::2]):
        raise _bad_prefix(field, items)
    good = [weight for weight in weights if weight is not None and 0 < weight < math.inf]
    if len(good) != len(prefixes):
        raise _bad_prefix(field, items)
    total = math.fsum(good)
    return Blend(tuple(map(str, prefixes)), tuple(weight / total for weight in good))


def parse_splits(value: str | Sequence[float] | None) -> tuple[float, float, float]:
    """Read ``900,50,50`` (also ``/`` between the numbers, also fewer than three) as shares that add up to 1.

    Raises:
        ConfigError: anything but one to three numbers >= 0 with a positive sum.
    """
    parts = value.replace("/", ",").split(",") if isinstance(value, str) else list(value or (1.0,))
    numbers = [_number(part) for part in parts]
    shares = [number for number in numbers if number is not None and 0 <= number < math.inf]
    if len(shares) != len(parts) or not 1 <= len(shares) <= 3 or math.fsum(shares) <= 0:
        raise ConfigError(
            "model.data.splits_string",
            required="up to three numbers >= 0, such as 900,50,50",
            given=repr(value),
            fix="write the shares of train, validation and test: model.data.splits_string=[900,50,50]",
        )
    shares += [0.0] * (3 - len(shares))
    total = math.fsum(shares)
    return shares[0] / total, shares[1] / total, shares[2] / total


def split_documents(num_documents: int, shares: tuple[float, float, float]) -> list[tuple[int, int]]:
    """[first, last) documents of each split, in file order, rounded as NeMo and Megatron round.

    Each document falls into at most one split, and all of them into some split.
    """
    edges = [0]
    for share in shares:
        edges.append(edges[-1] + round(share * num_documents))
    # Rounding may miss the end: NeMo moves every edge by the difference.
    shift = edges[-1] - num_documents
    edges = [0] + [max(0, edge - shift) for edge in edges[1:]]
    return [(edges[i], edges[i + 1]) for i in range(3)]


def parse_data_prefix(value: Any) -> dict[str, Blend] | Blend:
    """Read ``data.data_prefix``: one blend to be split by documents, or one blend per split.

    Raises:
        ConfigError: as `parse_prefix`, or a mapping with other keys than train, validation and test.
    """
    if not isinstance(value, Mapping):
        return parse_prefix(value)
    unknown = [str(key) for key in value if key not in SPLITS]
    if unknown or not value:
        raise ConfigError(
            "model.data.data_prefix",
            required="the keys " + ", ".join(SPLITS),
            given=", ".join(unknown) or "none",
            fix="name each split's corpora: 'model.data.data_prefix={train: [/a], validation: [/b]}'",
        )
    return {
        str(key): parse_prefix(part, f"model.data.data_prefix.{key}") for key, part in value.items() if part
    }


def _number(item: Any) -> float | None:
    # float(True) is 1: a yes in a list would pass for a weight.
    if isinstance(item, bool):
        return None
    try:
        return float(item)
    except (TypeError, ValueError, OverflowError):  # OverflowError: an integer of 400 digits
        return None


def _bad_prefix(field: str, given: Any) -> ConfigError:
    return ConfigError(
        field,
        required="[path], or weights and paths in turn such as [0.3, /a, 0.7, /b], weights above 0",
        given=repr(given),
        fix="write one weight before each path: model.data.data_prefix=[0.3,/a,0.7,/b]",
    )
