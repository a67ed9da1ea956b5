"""Steps that must not reach the weights: a loss or gradient that is no number, or one far out of line."""

from __future__ import annotations

import math
from collections import deque
from statistics import median
from typing import Any

from nemo_pi.errors import TrainingError

SPIKE = 10.0
"""A gradient norm of so many times the median of those before it is a spike."""
HISTORY = 32
"""Norms that the median is taken of."""
_ENOUGH = 8
"""Below so many of them, no norm is called a spike."""


class StepGuard:
    """Looks at every step between its gradients and its update.

    What it keeps goes into checkpoints, so that a resumed run judges as one that was never stopped.

    Args:
        allowed: bad steps that the run may leave out, in all; 0 stops at the first that is not finite, and
            takes spikes as they come.
    """

    def __init__(self, allowed: int) -> None:
        self.allowed = allowed
        self.skipped = 0
        """Steps left out so far."""
        self._norms: deque[float] = deque(maxlen=HISTORY)

    def accepts(self, step: int, loss: float, norm: float) -> bool:
        """Whether a step may change the weights; one that may not is counted.

        Args:
            step: its number, for the message.
            loss: the mean over all ranks.
            norm: of all gradients, before clipping.

        Raises:
            TrainingError: it may not, and no more may be left out.
        """
        reason = self._reason(loss, norm)
        if reason is None:
            self._norms.append(norm)
            return True
        if self.skipped >= self.allowed:
            raise _refusal(step, self.skipped, *reason)
        self.skipped += 1
        return False

    def _reason(self, loss: float, norm: float) -> tuple[str, str] | None:
        """What is required and what was given of a bad step."""
        for what, value in (("loss", loss), ("gradient norm", norm)):
            if not math.isfinite(value):
                return f"a finite {what}", f"{value}"
        if self.allowed and len(self._norms) >= _ENOUGH and norm > SPIKE * (usual := median(self._norms)):
            return f"a gradient norm below {SPIKE:g} times the usual {usual:.3g}", f"{norm:.3g}"
        return None

    def begin_stage(self) -> None:
        """Forgets the norms seen so far: other lengths and positions have other ones. The count stays."""
        self._norms.clear()

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it, JSON-ready; nothing where no step may be left out."""
        return {"skipped": self.skipped, "norms": list(self._norms)} if self.allowed else {}

    def restore(self, state: Any) -> None:
        """Goes on from `state`'s return value; anything else is ignored: it only moves a threshold."""
        if not isinstance(state, dict):
            return
        norms, skipped = state.get("norms"), state.get("skipped")
        if isinstance(norms, list) and all(isinstance(norm, float) for norm in norms):
            self._norms = deque(norms, maxlen=HISTORY)
        if isinstance(skipped, int):
            self.skipped = skipped


def _refusal(step: int, skipped: int, required: str, given: str) -> TrainingError:
    before = f", and {skipped} steps were left out before (model.skip_bad_steps)" if skipped else ""
    return TrainingError(
        f"step {step}",
        required=required,
        given=f"{given}; weights were not changed by it{before}",
        fix="start again, which goes on from the last checkpoint, with a lower model.optim.lr or with more "
        f"steps to leave out, model.skip_bad_steps={max(10, 2 * skipped)}; or look at these samples",
    )
