"""Learning rates as a pure function of the step, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class LearningRateSchedule:
    """Linear warm-up from a fraction of the peak, then constant, or down to a minimum; names as in the YAML.

    The default is the Position Interpolation paper's: 20 steps from 10% of the peak, then constant
    (arXiv 2306.15595, section 3.1).
    """

    lr: float
    """Learning rate after the warm-up, the peak."""
    name: str = "constant"
    """`constant`, `linear` or `cosine`."""
    warmup_steps: int = 20
    """Steps of the warm-up; 0 starts at the peak."""
    warmup_start_fraction: float = 0.1
    """First learning rate as a fraction of the peak."""
    max_steps: int = 0
    """Step at which decay ends."""
    min_lr: float = 0.0
    """Learning rate at the end of decay."""
    constant_steps: int = 0
    """Last steps, spent at `min_lr`."""

    def at(self, step: int) -> float:
        """The learning rate of optimizer step `step`, counted from 0."""
        if step < self.warmup_steps:
            start = self.warmup_start_fraction
            return self.lr * (start + (1.0 - start) * step / self.warmup_steps)
        if self.name == "constant":
            return self.lr
        # A decay of no steps is over at once, rather than a division by 0.
        span = max(1, self.max_steps - self.constant_steps - self.warmup_steps)
        progress = min(1.0, (step - self.warmup_steps) / span)
        left = 1.0 - progress if self.name == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
        return self.min_lr + (self.lr - self.min_lr) * left
