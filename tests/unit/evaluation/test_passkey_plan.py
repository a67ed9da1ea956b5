"""What is planned of pass keys, and how it is said."""

from __future__ import annotations

import pytest

from nemo_pi.errors import ConfigError
from nemo_pi.evaluation.passkey_plan import PasskeyPlan


@pytest.mark.parametrize(
    ("lengths", "depths", "num_trials"), [((), (0.5,), 1), ((400,), (), 1), ((400,), (0.5,), 0)]
)
def test_empty_plans_are_refused(
    lengths: tuple[int, ...], depths: tuple[float, ...], num_trials: int
) -> None:
    with pytest.raises(ConfigError, match="passkey"):
        PasskeyPlan(lengths, depths, num_trials, seed=0)


def test_one_trial_is_one() -> None:
    one, two = (PasskeyPlan((400,), (0.5,), count, seed=0).protocol["summary"] for count in (1, 2))
    assert ", 1 trial at each length" in one and ", 2 trials at each length" in two


@pytest.mark.parametrize(("bos", "words"), [(True, "after BOS"), (False, "no BOS")])
def test_the_protocol_says_what_documents_begin_with(bos: bool, words: str) -> None:
    protocol = PasskeyPlan((400,), (0.0,), 1, seed=0, bos=bos).protocol
    assert words in protocol["summary"] and protocol["bos"] is bos
