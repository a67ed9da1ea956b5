"""The rotary entries of a Hugging Face config, as transformers 5 reads them, for methods to look at."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from nemo_pi.errors import CheckpointError
from nemo_pi.rope.validation import MOST_TOKENS, is_finite


def unusable(entry: str, required: str, given: Any, fix: str) -> CheckpointError:
    """The error for an entry of config.json."""
    return CheckpointError(f"config.json ({entry})", required=required, given=repr(given), fix=fix)


def _is_window(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_TOKENS


@dataclass(frozen=True)
class HfRope:
    """One set of rotary entries, completed from the top level of config.json."""

    entries: Mapping[str, Any]
    """rope_parameters or the older rope_scaling; none of them None."""
    config: Mapping[str, Any]
    """The whole config.json, for entries that stand beside them."""

    @property
    def window(self) -> int:
        """max_position_embeddings, in tokens.

        Raises:
            CheckpointError: it is missing or no whole number.
        """
        window = self.config.get("max_position_embeddings")
        if not _is_window(window):
            raise unusable("max_position_embeddings", "the window in tokens", window, "write a whole number")
        return window

    def stated_original(self) -> int | None:
        """original_max_position_embeddings; Phi-3 keeps it at the top level, where it wins over an inner one.

        Raises:
            CheckpointError: it is no whole number.
        """
        entry = "original_max_position_embeddings"
        outer = self.config.get(entry)
        original = self.entries.get(entry) if outer is None else outer
        if original is not None and not _is_window(original):
            raise unusable(entry, "the pretrained window in tokens", original, "write a whole number")
        return original

    def factor(self, *, optional: bool = False) -> float | None:
        """The factor; None only where it is `optional` and not there.

        Raises:
            CheckpointError: it is missing, or below 1.
        """
        factor = self.entries.get("factor")
        if factor is None and optional:
            return None
        if not is_finite(factor) or factor < 1:
            raise unusable("factor", "a finite number of at least 1", factor, "add it to rope_parameters")
        return float(factor)

    def windows(self, original: int, factor: float | None) -> dict[str, Any]:
        """original_window, target_window and factor, where readers compute from original and factor alone.

        Published configs often leave max_position_embeddings as it was: where the three disagree, the
        frequencies decide.
        """
        if factor is None:
            return {"original_window": original, "target_window": self.window}
        if original * factor > MOST_TOKENS:
            raise unusable("factor", f"a window of {original} times this in int64", factor, "correct it")
        agree = abs(original * factor - self.window) <= 0.5
        target = self.window if agree else round(original * factor)
        return {"original_window": original, "target_window": target, "factor": factor}

    def among(self, names: Collection[str]) -> dict[str, Any]:
        """The entries of these names that are there."""
        return {name: self.entries[name] for name in names if name in self.entries}
