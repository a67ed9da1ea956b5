"""Families whose layers with a sliding window have rotary embeddings of their own (OLMo 3, Gemma 3)."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Any, ClassVar

from nemo_pi.families.base import Family
from nemo_pi.families.entries import unusable
from nemo_pi.families.layer_types import kinds_of
from nemo_pi.families.shape import ModelShape
from nemo_pi.rope.hf import to_hf
from nemo_pi.rope.hf_kinds import FULL, SLIDING
from nemo_pi.rope.spec import ContextExtension

_ORIGINAL = "original_max_position_embeddings"


class RotaryByKind(Family):
    """Reads and writes rope_parameters with a set of entries for each kind of layer.

    Where config.json is silent, it is as transformers' classes of these families assume: plain rotary
    embeddings, and bases that may differ by kind. The older rope_scaling is meant for layers with full
    attention alone.
    """

    rotary_by_kind = True
    full_theta: ClassVar[float]
    """RoPE's base in layers with full attention where config.json is silent."""
    sliding_theta: ClassVar[float]
    """The same of layers with a sliding window."""
    sliding_theta_key: ClassVar[str | None] = None
    """Older entry of config.json with the latter."""

    def rotary_sets(self, config: Mapping[str, Any], shape: ModelShape) -> dict[str, dict[str, Any]]:
        """The entries of each kind of layer that the model has; full-attention layers' come first always.

        Raises:
            CheckpointError: entries where transformers would overlook them.
        """
        nested, older = config.get("rope_parameters") or {}, config.get("rope_scaling") or {}
        stated = isinstance(nested, Mapping) and all(
            kind in (FULL, SLIDING) and isinstance(entries, (Mapping, NoneType))
            for kind, entries in nested.items()
        )
        if not stated:
            fix = f"write them below {FULL}: where they stand, transformers overlooks them"
            raise unusable("rope_parameters", f"{FULL} and {SLIDING}, with entries each", nested, fix)
        if not isinstance(older, Mapping) or ("type" in older and "rope_type" not in older):
            fix = "write rope_type for type: transformers overlooks the older name here"
            raise unusable("rope_scaling", "entries with a rope_type", older, fix)
        key = self.sliding_theta_key
        local = None if key is None else config.get(key)
        bases = {FULL: config.get("rope_theta") or self.full_theta, SLIDING: local or self.sliding_theta}
        sets = {}
        for kind in (FULL, SLIDING)[: 2 if shape.sliding_layers else 1]:
            entries = {**(nested.get(kind) or {}), **(older if kind == FULL else {})}
            given = {name: value for name, value in entries.items() if value is not None}
            sets[kind] = {"rope_theta": bases[kind], **given}
            scaled = given.get("rope_type", given.get("type", "default")) != "default"
            if scaled and config.get(_ORIGINAL) is not None:
                self._check_original(kind, given, config)
        return sets

    def _check_original(self, kind: str, given: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """Refuses an original window that stands where other families have it: it changes nothing here."""
        if _ORIGINAL not in given:
            fix = f"write it among the entries of {kind}: at the top level transformers overlooks it here"
            raise unusable(_ORIGINAL, f"absent beside scaled {kind} layers", config[_ORIGINAL], fix)

    def kind_entries(self, shape: ModelShape) -> dict[str, Any]:
        """Entries of config.json about the kinds of layers."""
        # transformers makes a mask of it, and stops without a number, even where no layer slides.
        return {"sliding_window": shape.sliding_window or 4096, "layer_types": kinds_of(shape)}

    def extension_entries(self, extension: ContextExtension) -> dict[str, Any]:
        """The inverse; a model without sliding layers has a set of entries for the others alone."""
        entries = super().extension_entries(extension)
        if extension.sliding is None:
            entries = to_hf(extension)
            entries["rope_parameters"] = {FULL: entries["rope_parameters"]}
        return entries
