"""`model.optim.lr_multipliers`: what it may name, and what becomes of it."""

from __future__ import annotations

from typing import Any

import pytest

from nemo_pi.config.plan import render_plan
from nemo_pi.errors import ConfigError
from tests.unit.config.builders import run_of

QKV, PROJ, FC1, FC2 = (
    "self_attention.linear_qkv",
    "self_attention.linear_proj",
    "mlp.linear_fc1",
    "mlp.linear_fc2",
)


def multiplied(factors: Any, **model: Any) -> Any:
    """A run with these factors."""
    return run_of({"optim": {"lr_multipliers": factors}, **model})


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (None, {}),
        ({}, {}),
        ({"attention_qkv": 10}, {QKV: 10.0}),
        ({"linear_qkv": 0.5, "mlp": 2}, {QKV: 0.5, FC1: 2.0, FC2: 2.0}),
        ({"all": 3}, dict.fromkeys((QKV, PROJ, FC1, FC2), 3.0)),
    ],
    ids=str,
)
def test_names_become_linear_layers(given: Any, found: dict[str, float]) -> None:
    assert multiplied(given).engine.optim.lr_multipliers == found


@pytest.mark.parametrize(
    ("given", "field", "said"),
    [
        ({"atention_qkv": 2}, "", "did you mean attention_qkv"),
        ({"q_proj": 2}, "", "did you mean attention_qkv"),
        ({"xyzzy": 2}, "", "lr_multipliers=null"),
        ({"attention_qkv": 0}, ".attention_qkv", "above 0"),
        ({"attention_qkv": -1}, ".attention_qkv", "above 0"),
        ({"attention_qkv": float("inf")}, ".attention_qkv", "above 0"),
        ({"attention_qkv": float("nan")}, ".attention_qkv", "above 0"),
        ({"attention": 2, "attention_qkv": 3}, ".attention_qkv", "linear_qkv under two"),
        ({"mlp_fc1": 2, "linear_fc1": 2}, ".linear_fc1", "linear_fc1 under two"),
    ],
    ids=str,
)
def test_others_are_refused(given: Any, field: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        multiplied(given)
    assert caught.value.field == f"model.optim.lr_multipliers{field}"


@pytest.mark.parametrize("given", ["10", 10, [10], {"attention_qkv": "much"}], ids=str)
def test_other_kinds_of_values_are_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match="lr_multipliers"):
        multiplied(given)


def test_layers_without_an_adapter_are_refused() -> None:
    peft = {"peft": {"lora_tuning": {"target_modules": ["attention_qkv"]}}}
    assert multiplied({"attention_qkv": 4}, **peft).engine.optim.lr_multipliers == {QKV: 4.0}
    with pytest.raises(ConfigError, match="linear_fc1, which has none"):
        multiplied({"mlp": 4}, **peft)


def test_the_plan_says_so() -> None:
    assert "10 times that for linear_qkv" in render_plan(multiplied({"attention_qkv": 10}))
    assert "times that" not in render_plan(multiplied(None))
