"""Arguments of a method that are worth trying on a model before anyone trains it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Candidate:
    """One choice of a method's arguments; what is not given is the method's own default."""

    arguments: Mapping[str, Any] = field(default_factory=dict)
    """As `pos_scaling_extra_args` takes them."""
    stretch: float = 1.0
    """Times the window that is asked for, at least 1: the target window to give the method, and with it the
    factor where that is the ratio of the windows. Above 1 some methods read the window asked for better."""
    factor: float | None = None
    """Only where it is not the ratio of the windows. None: the method's own."""
    source: str = ""
    """Who chose so, or why it may help."""
