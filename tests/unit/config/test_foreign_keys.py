"""The tables of foreign keys are what the installed NeMo and Lightning say of themselves."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from typing import Any

from lightning.pytorch import Trainer
from nemo.utils.exp_manager import ExpManagerConfig

from nemo_pi.config.foreign_keys import EXP_MANAGER, TRAINER


def fields_of(kind: type) -> dict[str, Any]:
    """A dataclass as such a table: plain types, tables for the dataclasses inside it, else None."""
    hints = typing.get_type_hints(kind)
    table: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        options = [option for option in (hint, *typing.get_args(hint)) if isinstance(option, type)]
        inner = [fields_of(option) for option in options if dataclasses.is_dataclass(option)]
        plain = [option for option in options if option in (bool, int, float, str)]
        table[field.name] = next(iter([*inner, *plain]), None)
    return table


def test_exp_manager_s_keys_are_nemo_s() -> None:
    assert fields_of(ExpManagerConfig) == EXP_MANAGER


def test_the_trainer_s_keys_are_lightning_s() -> None:
    assert ("self", *TRAINER) == tuple(inspect.signature(Trainer.__init__).parameters)
