"""What each method takes besides its factor."""

from __future__ import annotations

from typing import Any

import pytest

from nemo_pi.errors import ConfigError
from nemo_pi.rope.methods.base import RopeNumbers
from nemo_pi.rope.methods.registry import BUILT_IN, method_named
from nemo_pi.rope.spec import METHODS
from tests.unit.rope.peers import as_in_a_yaml

LISTS = {"short_factor": [1.0, 1.0], "long_factor": [2.0, 4.0]}


def validate_extra_args(method: str, given: dict[str, Any], num_frequencies: int) -> Any:
    """The arguments a method makes of these, for heads of 2 × num_frequencies channels."""
    rope = RopeNumbers(512, 4096, 8.0, 10000.0, head_dim=2 * num_frequencies, rotary_percent=1.0)
    with as_in_a_yaml():
        return method_named(method).build(given, rope).arguments()


def test_every_method_has_an_entry() -> None:
    assert tuple(BUILT_IN) == METHODS


def test_normalised() -> None:
    given = {"truncate": False, "beta_fast": 16, "attention_factor": None}
    assert validate_extra_args("yarn", given, 32) == (("beta_fast", 16.0), ("truncate", False))
    assert validate_extra_args("longrope", LISTS, 2)[0] == ("long_factor", (2.0, 4.0))
    both = validate_extra_args("llama3", {"low_freq_factor": 2}, 32)
    assert both == (("high_freq_factor", 4.0), ("low_freq_factor", 2.0))


@pytest.mark.parametrize(
    ("method", "given", "name", "words"),
    [
        ("yarn", {"beta_fsat": 32}, "beta_fsat", "did you mean 'beta_fast'"),
        ("linear", {"beta_fast": 32}, "beta_fast", "choose one of: none at all"),
        (
            "llama3",
            {"original_max_position_embeddings": 8192},
            "original_max_position_embeddings",
            "write model.",
        ),
        ("yarn", {"factor": 4}, "factor", "write model.pos_scaling_factor instead"),
        ("yarn", {"beta_fast": "32"}, "beta_fast", "without quotes"),
        ("yarn", {"beta_fast": 0}, "beta_fast", "above 0"),
        ("yarn", {"beta_slow": 64}, "beta_fast", "given 32 and 64"),
        ("yarn", {"truncate": 1}, "truncate", "true or false"),
        ("yarn", {"mscale": 1.0}, "mscale", "both mscale and mscale_all_dim"),
        ("yarn", {"mscale_all_dim": 1.0}, "mscale_all_dim", "only mscale_all_dim"),
        ("yarn", {"attention_factor": float("nan")}, "attention_factor", "finite"),
        ("yarn", {"attention_factor": -1.0}, "attention_factor", "above 0"),
        ("llama3", {"low_freq_factor": 4.0}, "high_freq_factor", "given 4 and 4"),
        ("llama3", {"low_freq_factor": True}, "low_freq_factor", "given True"),
        ("longrope", {}, "short_factor", "a list of 2 numbers"),
        ("longrope", {"short_factor": [1.0, 1.0]}, "long_factor", "given nothing"),
        ("longrope", LISTS | {"long_factor": [1.0]}, "long_factor", "given 1 of them"),
        ("longrope", LISTS | {"long_factor": 4.0}, "long_factor", "given 4.0"),
        ("longrope", LISTS | {"long_factor": "12"}, "long_factor", "given '12'"),
        ("longrope", LISTS | {"long_factor": [1.0, 0.0]}, "long_factor[1]", "above 0"),
    ],
    ids=str,
)
def test_refusals(method: str, given: dict[str, Any], name: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate_extra_args(method, given, 2)
    assert caught.value.field == f"model.pos_scaling_extra_args.{name}"
    assert words in str(caught.value)
