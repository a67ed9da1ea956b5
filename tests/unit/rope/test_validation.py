"""Pieces of validation that the spec's own tests do not show."""

from __future__ import annotations

import pytest

from nemo_pi.errors import ConfigError
from nemo_pi.rope.validation import as_mapping, check_factor_is_ratio, check_number, did_you_mean


def test_nearest_name_comes_first() -> None:
    assert did_you_mean("beta_fas", ["beta_slow", "beta_fast"]).startswith("did you mean 'beta_fast'?")
    assert did_you_mean("qqq", ["beta_slow"]) == "choose one of: beta_slow"
    assert did_you_mean("pi", ["yarn"]) == "choose one of: yarn"
    assert did_you_mean("mscale", []) == "choose one of: none at all"


def test_limits_of_numbers() -> None:
    assert check_number("key", 2, at_least=2.0) == 2.0
    with pytest.raises(ConfigError, match="finite number above 2; given 2"):
        check_number("key", 2, above=2.0)
    with pytest.raises(ConfigError, match="of at least 2; given 1"):
        check_number("key", 1, at_least=2.0)


def test_missing_mapping_is_empty() -> None:
    assert as_mapping("key", None) == {}


def test_half_a_token_is_the_limit() -> None:
    check_factor_is_ratio(5, 8, 1.5)
    with pytest.raises(ConfigError):
        check_factor_is_ratio(5, 9, 1.5)
