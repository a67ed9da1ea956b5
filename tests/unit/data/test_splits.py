"""Prefixes, blends and splits as NeMo users write them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from nemo_pi.data.splits import Blend, parse_data_prefix, parse_prefix, parse_splits, split_documents
from nemo_pi.errors import ConfigError

# No limits on time: a busy machine is no failure.
SLOW_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/a", Blend(("/a",), (1.0,))),
        (["/a"], Blend(("/a",), (1.0,))),
        (["/a", "/b"], Blend(("/a", "/b"), (0.5, 0.5))),
        ([0.5, "/a", 0.5, "/b"], Blend(("/a", "/b"), (0.5, 0.5))),
        ([".5", "/a", "1.5", "/b"], Blend(("/a", "/b"), (0.25, 0.75))),
        ([3, "/a"], Blend(("/a",), (1.0,))),
        (OmegaConf.create([1, "/a", 3, "/b"]), Blend(("/a", "/b"), (0.25, 0.75))),
    ],
)
def test_prefixes(value: Any, expected: Blend) -> None:
    assert parse_prefix(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        3,
        [0.5, "/a", 0.5],
        [0.5, "/a", "/b"],
        ["/a", 0.5],
        [0.5, 0.5],
        [-1, "/a", 2, "/b"],
        [0, "/a"],
        ["nan", "/a"],
        ["inf", "/a"],
        [True, "/a"],
        [0.5, None],
        [["/a"]],
    ],
)
def test_bad_prefixes_are_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="data_prefix"):
        parse_prefix(value)


def test_prefix_per_split() -> None:
    parsed = parse_data_prefix(
        OmegaConf.create({"train": [1, "/a", 1, "/b"], "validation": "/c", "test": None})
    )
    assert parsed == {"train": Blend(("/a", "/b"), (0.5, 0.5)), "validation": Blend(("/c",), (1.0,))}


@pytest.mark.parametrize("value", [{"valid": ["/a"]}, {}])
def test_unknown_split_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="train, validation, test"):
        parse_data_prefix(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("900,50,50", (0.9, 0.05, 0.05)),
        ("8/1/1", (0.8, 0.1, 0.1)),
        ("1, 0, 0", (1, 0, 0)),
        ("9,1", (0.9, 0.1, 0)),
        ([3, 1, 0], (0.75, 0.25, 0)),
        (None, (1, 0, 0)),
    ],
)
def test_splits(value: Any, expected: tuple[float, ...]) -> None:
    assert parse_splits(value) == expected


@pytest.mark.parametrize("value", ["", "a,b", "1,1,1,1", "-1,2", "0,0,0", "nan,1", "inf,1,1", "1,,1"])
def test_bad_splits_are_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="splits_string"):
        parse_splits(value)


@pytest.mark.parametrize(
    ("documents", "shares", "expected"),
    [
        (1000, (0.9, 0.05, 0.05), [(0, 900), (900, 950), (950, 1000)]),
        (1, (0.5, 0.5, 0.0), [(0, 1), (1, 1), (1, 1)]),
        (3, (0.5, 0.5, 0.0), [(0, 1), (1, 3), (3, 3)]),
        (10, (0.98, 0.01, 0.01), [(0, 10), (10, 10), (10, 10)]),
    ],
)
def test_split_documents(documents: int, shares: Any, expected: list[tuple[int, int]]) -> None:
    assert split_documents(documents, shares) == expected


@settings(SLOW_MACHINE)
@given(st.integers(0, 500), st.tuples(*[st.integers(0, 100)] * 3).filter(any))
def test_splits_cover_every_document_once(documents: int, numbers: tuple[int, int, int]) -> None:
    shares = parse_splits(list(numbers))
    ranges = split_documents(documents, shares)
    assert [i for first, last in ranges for i in range(first, last)] == list(range(documents))
    for (first, last), share in zip(ranges, shares, strict=True):
        assert abs((last - first) - share * documents) <= 2


def test_weights_beyond_floats_are_refused() -> None:
    with pytest.raises(ConfigError):
        parse_prefix([10**400, "/a", 1, "/b"])
    with pytest.raises(ConfigError):
        parse_splits([10**400, 1, 1])
