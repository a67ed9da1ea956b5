"""A key that stands at the wrong place is sent to its own."""

from __future__ import annotations

from typing import Any

import pytest

from nemo_pi.config.load import merge
from nemo_pi.config.places import place_of
from nemo_pi.errors import ConfigError
from tests.unit.config.builders import values_of


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"allow_rescaling": True}, "model.allow_rescaling"),
        ({"lr": 1e-3}, "model.optim.lr"),
        ({"max_steps": 3}, "trainer.max_steps"),
        ({"resume_if_exists": True}, "exp_manager.resume_if_exists"),
        ({"model": {"dry_run": True}}, "dry_run"),
        ({"model": {"warmup_steps": 3}}, "model.optim.sched.warmup_steps"),
    ],
    ids=str,
)
def test_a_key_at_the_wrong_place_is_sent_to_its_own(given: dict[str, Any], place: str) -> None:
    with pytest.raises(ConfigError) as caught:
        merge({**values_of(), **given})
    assert caught.value.fix == f"did you mean {place}?"


def test_names_that_stand_nowhere_have_no_place() -> None:
    assert place_of("allow_rescalin") is None and place_of("") is None


def test_the_place_nearest_to_the_top_is_meant() -> None:
    """model.optim and model.optim.sched have names and steps, too."""
    assert (place_of("name"), place_of("seed")) == ("name", "model.seed")
