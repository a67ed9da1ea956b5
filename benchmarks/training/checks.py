"""Whether contestants did the same work."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.training.race import Outcome

# Losses in nats. Step 0: the same weights on the same tokens, summed in another order. Later steps: the same
# gradients, clipping and AdamW, through which those differences grow.
FIRST_FP32, LATER_FP32 = 1e-4, 1e-2
FIRST_BF16, LATER_BF16 = 2e-2, 1e-1


def disqualify_other_work(outcomes: Mapping[str, Outcome], *, bf16: bool = False) -> tuple[float, float]:
    """Compares the losses of all steps that two contestants both took with those of the first of them.

    Whoever computed other losses did other work: its times are dropped, and its failure says so.

    Returns:
        The largest difference at step 0, and at any later step, among those whose times count.
    """
    limits = (FIRST_BF16, LATER_BF16) if bf16 else (FIRST_FP32, LATER_FP32)
    found = [0.0, 0.0]
    ran = {name: outcome for name, outcome in outcomes.items() if outcome.losses}
    reference = next(iter(ran), "")
    for name, outcome in ran.items():
        apart = [0.0, 0.0]
        for step, (one, other) in enumerate(zip(ran[reference].losses, outcome.losses, strict=False)):
            later = min(step, 1)
            # Written so that nan does not pass.
            if not abs(one - other) <= limits[later]:
                outcome.drop(
                    f"{name}: not the same work: loss {other:.6f} at step {step}, {reference} had {one:.6f}; "
                    f"at most {limits[later]:g} apart would be"
                )
                break
            apart[later] = max(apart[later], abs(one - other))
        else:
            found = [max(pair) for pair in zip(found, apart, strict=True)]
    return found[0], found[1]
