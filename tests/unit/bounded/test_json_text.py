"""JSON by number and depth of its values."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_pi.bounded.json_text import check_amount, parse_json

PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(), inner, max_size=4)),
    max_leaves=30,
)


@given(values=PLAIN, escaped=st.booleans())
def test_values_are_those_of_json(values: Any, escaped: bool) -> None:
    assert parse_json(json.dumps(values, ensure_ascii=escaped).encode("utf-8", "surrogatepass")) == values


@pytest.mark.parametrize("text", ["", "[1,]", "{'a': 1}", "\ufeff{}", "[" * 100_000])
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_json(text.encode())
    with pytest.raises(ValueError):
        parse_json(b'{"a": "\xff"}')


def test_values_are_counted_without_those_in_quotes() -> None:
    parse_json(json.dumps({"text": '[,:{"\\' * 50}).encode(), most_values=5)
    for text in ("[1,2,3,4,5,6]", "[[],[],[]]", '{"a":1,"b":2,"c":3}'):
        with pytest.raises(ValueError, match="more than 5 values"):
            parse_json(text.encode(), most_values=5)


def test_a_text_that_never_ends_is_scanned_once() -> None:
    check_amount(b'"' + b'\\",[' * 1_000_000, 5)


def test_levels_are_bounded() -> None:
    assert parse_json(b"[" * 65 + b"]" * 65, most_levels=64) is not None
    with pytest.raises(ValueError, match="more than 64"):
        parse_json(b'{"a":' + b"[" * 65 + b"]" * 65 + b"}")
    assert parse_json(b"[" * 300 + b"]" * 300, most_levels=None) is not None
