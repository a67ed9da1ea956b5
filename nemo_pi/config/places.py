"""Where in a run's YAML a key stands: what a key at the wrong place is answered with."""

from __future__ import annotations

from dataclasses import fields

from nemo_pi.config.foreign_keys import EXP_MANAGER, TRAINER
from nemo_pi.config.merge import places
from nemo_pi.config.schema import RunConfig


def place_of(key: str) -> str | None:
    """The dotted place of a key of exactly this name, nearest to the top; None where there is none."""
    found = [key] if key in {field.name for field in fields(RunConfig)} else []
    found += places(RunConfig, key)
    foreign = {"trainer": dict.fromkeys(TRAINER), "exp_manager": EXP_MANAGER}  # mappings in RunConfig
    found += places(foreign, key)
    return min(found, key=lambda place: place.count("."), default=None)
