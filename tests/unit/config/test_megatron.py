"""Keys that are Megatron's own options: every declared name exists there, and values arrive unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import pytest
from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.optimizer import OptimizerConfig
from megatron.core.transformer.transformer_config import TransformerConfig

from nemo_pi.config.megatron import filled, keys_of, options_of, passed
from nemo_pi.config.schema import ModelConfig
from nemo_pi.engine.settings import AdamSettings
from nemo_pi.model.build import transformer_config
from nemo_pi.model.options import BuildOptions
from nemo_pi.parallel.layout import ParallelLayout
from tests.unit.config.builders import SHAPE, run_of

THEIRS = {
    "transformer": TransformerConfig,
    "optimizer": OptimizerConfig,
    "ddp": DistributedDataParallelConfig,
}


@dataclass
class Inner:
    pair: tuple[float, float] = passed((0.1, 0.2), optimizer=("first", "second"))
    own: int = 3


@dataclass
class Section:
    plain: float = passed(1.0, transformer="plain")
    renamed: bool | None = passed(None, transformer="theirs", ddp="also_theirs")
    inner: Inner = field(default_factory=Inner)


def declared(section: Any) -> Iterator[tuple[str, str]]:
    """(place, option) of every declaration in a section and the sections in it."""
    for key in fields(section):
        for place, names in key.metadata.items():
            yield from ((place, name) for name in ([names] if isinstance(names, str) else names))
        value = getattr(section, key.name)
        if is_dataclass(value):
            yield from declared(value)


def test_every_declared_option_is_megatron_s() -> None:
    found = list(declared(ModelConfig()))
    assert {place for place, _ in found} >= {"transformer", "optimizer"}
    for place, option in found:
        assert option in {key.name for key in fields(THEIRS[place])}, f"{place} has no {option}"


def test_values_go_under_megatron_s_names_and_null_goes_nowhere() -> None:
    assert options_of(Section(), "transformer") == {"plain": 1.0}
    section = Section(renamed=False, inner=Inner((5.0, 6.0)))
    assert options_of(section, "transformer") == {"plain": 1.0, "theirs": False}
    assert options_of(section, "ddp") == {"also_theirs": False}
    assert options_of(section, "optimizer") == {"first": 5.0, "second": 6.0}
    assert keys_of(section, "ddp") == {"also_theirs": "model.renamed"}
    assert keys_of(section, "optimizer") == dict.fromkeys(("first", "second"), "model.inner.pair")


def test_options_without_a_field_of_their_own_come_along() -> None:
    adam = filled(AdamSettings, {"lr": 0.5, "decoupled_weight_decay": True}, clip_grad=0.0)
    assert adam == AdamSettings(lr=0.5, clip_grad=0.0, megatron={"decoupled_weight_decay": True})


def test_the_yaml_s_values_reach_megatron_s_configuration() -> None:
    build = run_of({"init_method_std": 0.007}).engine.build
    assert transformer_config(SHAPE, ParallelLayout(), build).init_method_std == 0.007


@pytest.mark.parametrize("value", [True, False])
def test_an_option_wins_over_what_is_chosen_for_it(value: bool) -> None:
    build = BuildOptions(megatron={"batch_p2p_comm": value})
    assert transformer_config(SHAPE, ParallelLayout(), build).batch_p2p_comm is value
