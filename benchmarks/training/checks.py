"""Whether contestants did the same work."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.training.race import Outcome

# Losses in nats. Step 0: the same weights on the same tokens, summed in another order. Later steps: the same
# gradients, clipping and AdamW, through which those differences grow.
FIRST_FP32, LATER_FP32 = 1e-4, 1e-2
FIRST_BF16, LATER_BF16 = 2e-2, 1e-1


class NotTheSameWork(AssertionError):
    """Two contestants computed different losses: what they took cannot be compared."""


def check_same_work(outcomes: Mapping[str, Outcome], *, bf16: bool = False) -> tuple[float, float]:
    """Compares the losses of all steps that two contestants both took with those of the first of them.

    Returns:
        The largest difference at step 0, and at any later step.

    Raises:
        NotTheSameWork: naming the contestant.
    """
    limits = (FIRST_BF16, LATER_BF16) if bf16 else (FIRST_FP32, LATER_FP32)
    found = [0.0, 0.0]
    ran = {name: outcome.losses for name, outcome in outcomes.items() if outcome.losses}
    reference = next(iter(ran.values()), [])
    for name, losses in ran.items():
        for step, (one, other) in enumerate(zip(reference, losses, strict=False)):
            later = min(step, 1)
            found[later] = max(found[later], abs(one - other))
            # Written so that nan does not pass.
            if not abs(one - other) <= limits[later]:
                raise NotTheSameWork(
                    f"{name}: loss {other:.6f} at step {step}, {next(iter(ran))} had {one:.6f}; "
                    f"at most {limits[later]:g} apart would be the same work"
                )
    return found[0], found[1]
