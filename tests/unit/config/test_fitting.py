"""What would make a run fit: each change that is named is tried."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import OmegaConf

from nemo_pi.config.capacity import Capacity
from nemo_pi.config.fitting import longest_that_fits, single_changes, what_would_fit
from nemo_pi.config.memory import estimate_memory
from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.errors import ConfigError
from nemo_pi.nemo.preflight import check_memory
from tests.unit.config.builders import run_of, values_of

LONG = {"max_position_embeddings": 65536}


def with_overrides(text: str, model: dict[str, Any]) -> ResolvedRun:
    """The run of values_of(model) with overrides as the message gives them."""
    overrides, _, ranks = text.partition(" on ")
    number = int(ranks.split()[0]) if ranks else 1
    values = OmegaConf.create(values_of(model))
    for override in overrides.split():
        key, _, value = override.lstrip("+").partition("=")
        OmegaConf.update(values, key, OmegaConf.create(f"x: {value}").x, force_add=True)
    return run_of(OmegaConf.to_container(values.model), world_size=number)  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0.9, 0.6, 0.45, 0.3, 0.24])
def test_each_change_that_is_named_makes_it_fit(share: float) -> None:
    run = run_of(LONG)
    capacity = Capacity(int(share * estimate_memory(run).total), None)
    assert capacity.lacks(estimate_memory(run))
    for text in single_changes(run, capacity):
        assert not capacity.lacks(estimate_memory(with_overrides(text, LONG))), text


def test_what_costs_least_speed_comes_first_and_all_together_last() -> None:
    run = run_of(LONG)
    total = estimate_memory(run).total
    many = single_changes(run, Capacity(int(0.9 * total), None))
    assert many[0] == "model.mlp_chunk_size=auto" and "tensor_model_parallel_size=2 on 2 ranks" in many[2]
    (one,) = single_changes(run, Capacity(int(0.24 * total), None))
    assert one.count("=") == 3 and "granularity=full" in one and "offload=" in one


def test_where_nothing_else_helps_the_length_is_named() -> None:
    run = run_of(LONG)
    capacity = Capacity(150 << 20, None)
    length = longest_that_fits(run, capacity)
    assert length is not None and f"model.encoder_seq_length={length}" in what_would_fit(run, capacity)
    assert not capacity.lacks(estimate_memory(run_of({**LONG, "encoder_seq_length": length})))
    assert capacity.lacks(estimate_memory(run_of({**LONG, "encoder_seq_length": length + 64})))
    assert "not even a short sample" in what_would_fit(run, Capacity(1 << 20, None))


def test_a_run_that_cannot_fit_is_refused_unless_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    for room, force, refused in ((1 << 40, False, False), (1 << 30, False, True), (1 << 30, True, False)):
        monkeypatch.setattr("nemo_pi.nemo.preflight.capacity_of", lambda run, room=room: Capacity(room, room))
        run = run_of(LONG, force=force)
        if not refused:
            check_memory(run)
            continue
        with pytest.raises(ConfigError, match=r"1\.0 GiB.*makes it fit.*force=true"):
            check_memory(run)
