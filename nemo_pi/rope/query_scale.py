"""Queries that grow with their position, so that attention stays sharp over long texts (Ministral 3).

A rotated query at position m is multiplied by 1 + β·ln(1 + ⌊m / W⌋): by 1 within the first W tokens, by more
in steps of W tokens beyond. It belongs to the checkpoint: an extension leaves it as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nemo_pi.errors import ConfigError
from nemo_pi.rope.validation import check_number, check_window, did_you_mean


@dataclass(frozen=True)
class QueryScale:
    """The two numbers of the formula.

    Raises:
        ConfigError: naming `query_scale.beta` or `query_scale.window`.
    """

    beta: float
    """β, at least 0 (transformers: llama_4_scaling_beta)."""
    window: int
    """W in tokens (transformers: original_max_position_embeddings)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", check_number("query_scale.beta", self.beta, at_least=0.0))
        check_window("query_scale.window", self.window)

    @torch.no_grad()
    def at(self, position_ids: Tensor) -> Tensor:
        """What queries at these positions are multiplied by; fp32, of the same shape and device."""
        # Whole numbers are divided as such: in fp32, positions beyond 2^24 would round up into the next step.
        steps = position_ids.div(self.window, rounding_mode="floor").float()
        return 1 + self.beta * torch.log(1 + steps)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready copy."""
        return {"beta": self.beta, "window": self.window}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> QueryScale:
        """The inverse of to_dict.

        Raises:
            ConfigError: a number that is missing, surplus or wrong.
        """
        known = ("beta", "window")
        for name in values:
            if name not in known:
                fix = did_you_mean(name, known)
                raise ConfigError("query_scale", required="beta and window", given=repr(name), fix=fix)
        return cls(values.get("beta"), values.get("window"))  # type: ignore[arg-type]  # both are checked
