from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from nemo_pi.config.merge import convert, from_mapping, refuse_targets
from nemo_pi.errors import ConfigError


@dataclass
class Inner:
    rate: float = 0.5
    words: list[str] = field(default_factory=list)
    pair: tuple[float, float] = (0.0, 1.0)


@dataclass
class Outer:
    count: int = 1
    maybe: int | None = None
    switch: bool = False
    mixed: str | bool = "auto"
    prefix: str | list[Any] | dict[str, Any] | None = None
    free: dict[str, Any] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)
    optional: Inner | None = None


def test_values_go_over_defaults_at_every_level() -> None:
    outer = from_mapping(Outer, {"count": 3, "inner": {"rate": 1, "words": ["a"]}})
    assert outer == Outer(count=3, inner=Inner(rate=1.0, words=["a"]))
    assert isinstance(outer.inner.rate, float)


@pytest.mark.parametrize(
    ("values", "key", "suggestion"),
    [
        ({"cuont": 1}, "cuont", "did you mean count?"),
        ({"inner": {"raet": 1.0}}, "inner.raet", "did you mean inner.rate?"),
        ({"INNER": {}}, "INNER", "did you mean inner?"),
        ({"inner": {"zzzzzz": 1.0}}, "inner.zzzzzz", "remove 'zzzzzz'"),
    ],
)
def test_unknown_keys_are_refused_with_the_nearest(values: dict[str, Any], key: str, suggestion: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_mapping(Outer, values)
    assert caught.value.field == key
    assert caught.value.fix == suggestion


def test_a_key_of_a_section_below_is_the_better_answer() -> None:
    with pytest.raises(ConfigError) as caught:
        from_mapping(Outer, {"rate": 1.0})
    assert caught.value.fix == "did you mean inner.rate or optional.rate?"


def test_all_unknown_keys_are_named_at_once() -> None:
    values = {"cuont": 1, "inner": {"raet": 1.0, "zzzzzz": 1}, "optional": {"wrods": []}, "free": {"any": 1}}
    with pytest.raises(ConfigError) as caught:
        from_mapping(Outer, values)
    assert caught.value.field == "cuont, inner.raet, inner.zzzzzz, optional.wrods"
    assert caught.value.fix == (
        "cuont: did you mean count?; inner.raet: did you mean inner.rate?; inner.zzzzzz: remove 'zzzzzz'; "
        "optional.wrods: did you mean optional.words?"
    )


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (4096, int, 4096),
        (4096.0, int, 4096),
        ("4e3", int, 4000),  # YAML 1.1 reads both of these as text
        ("1e-4", float, 1e-4),
        ("2.5E+3", float, 2500.0),
        (3, float, 3.0),
        (True, bool, True),
        ("16", str, "16"),
        (None, int | None, None),
        (7, int | None, 7),
        (True, str | bool, True),
        ("auto", str | bool, "auto"),
        ([0.9, 1], tuple[float, float], (0.9, 1.0)),
        (["a", 0.5], list[Any], ["a", 0.5]),
        ("a", str | list[Any] | None, "a"),
        (["a"], str | list[Any] | None, ["a"]),
    ],
)
def test_convert(value: Any, hint: Any, expected: Any) -> None:
    converted = convert(value, hint, "key")
    assert converted == expected
    assert type(converted) is type(expected)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("16", int),
        ("16.0", float),
        ("16x", float),
        ("", float),
        ("nan", float),
        ("1e", float),
        ("0x10", int),
        (float("nan"), float),
        (float("inf"), float),
        (0.5, int),
        ("1e-4", int),
        (True, int),
        (True, float),
        (1, bool),
        ("true", bool),
        (1, str),
        (None, int),
        (None, bool),
        ([1.0], tuple[float, float]),
        ("0.9,0.95", tuple[float, float]),
        ("a", list[str]),
        ([1], list[str]),
        (3, Inner),
        (3, dict[str, Any]),
        (1.5, int | None),
        (3, str | bool),
    ],
)
def test_wrong_types_are_refused(value: Any, hint: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        convert(value, hint, "some.key")
    assert caught.value.field.startswith("some.key")
    if value is not None and not isinstance(value, list):
        assert repr(value) in str(caught.value.given)


def test_a_key_of_two_shapes_names_them_once() -> None:
    with pytest.raises(ConfigError, match="required a list or a section; given"):
        convert("passkey", dict[str, Any] | list[str], "tasks")


def test_quoted_number_says_how_to_write_it() -> None:
    with pytest.raises(ConfigError, match="without quotes"):
        convert("16.0", float | None, "model.pos_scaling_factor")


def test_missing_value_is_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"inner\.rate: required a value"):
        from_mapping(Outer, {"inner": {"rate": "???"}})


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"_target_": "os.system"}, "_target_"),
        ({"free": {"deep": {"_target_": "os.system"}}}, "free.deep._target_"),
        ({"prefix": [1, {"_target_": "os.system"}]}, "prefix[1]._target_"),
    ],
)
def test_target_is_refused_at_any_depth(values: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match="never code") as caught:
        refuse_targets(values)
    assert caught.value.field == key


def test_target_is_refused_as_a_key_of_a_section() -> None:
    with pytest.raises(ConfigError, match="never code"):
        from_mapping(Outer, {"inner": {"_target_": "os.system"}})


@pytest.mark.parametrize("values", [{"count": 10**400}, {"inner": {"rate": 10**400}}])
def test_numbers_beyond_floats_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"count: required a whole number|rate: required a finite number"):
        from_mapping(Outer, values)
