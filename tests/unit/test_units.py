from __future__ import annotations

import pytest

from nemo_pi.units import grouped, plural, short, size_of


def test_grouped() -> None:
    assert grouped(32768) == "32,768"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (999, "999"),
        (999_999, "999,999"),
        (5_300_000, "5.3 million"),
        (6_738_415_616, "6.74 billion"),
        (2.1e12, "2.1 trillion"),
    ],
)
def test_short(number: float, text: str) -> None:
    assert short(number) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(512, "0 KiB"), (2048, "2 KiB"), (3 * 2**20, "3.0 MiB"), (2**31, "2.0 GiB"), (2**41, "2.0 TiB")],
)
def test_size(size: int, text: str) -> None:
    assert size_of(size) == text


def test_plural() -> None:
    assert plural(1, "step") == "1 step"
    assert plural(2000, "step") == "2,000 steps"
    assert plural(2, "micro-batch") == "2 micro-batches"
