"""OLMo 3: an OLMo 2 of which three of four layers look back a sliding window, and are never scaled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from nemo_pi.families.by_kind import RotaryByKind
from nemo_pi.families.layer_types import read_kinds, windows
from nemo_pi.families.olmo2 import Olmo2
from nemo_pi.families.shape import ModelShape


class Olmo3(RotaryByKind, Olmo2):
    """model_type olmo3."""

    name = "olmo3"
    architecture = "Olmo3ForCausalLM"
    fixed: ClassVar[Mapping[str, Any]] = {
        key: value
        for key, value in Olmo2.fixed.items()
        if key not in ("sliding_window", "full_attention_layers")
    }
    defaults: ClassVar[Mapping[str, Any]] = {**Olmo2.defaults, "sliding_window": 4096, "layer_types": None}
    full_theta = sliding_theta = 500000.0

    def read_windows(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The layers that layer_types names or, where it is silent, all but every fourth."""
        return windows(config, read_kinds(config, lambda layer: (layer + 1) % 4 != 0))

    def shape_entries(self, shape: ModelShape) -> dict[str, Any]:
        """Entries of config.json that say what `shape` says."""
        return {**super().shape_entries(shape), **self.kind_entries(shape)}
