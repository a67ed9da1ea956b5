"""Theorem 2.1 of Position Interpolation (arXiv 2306.15595) in the numbers of one checkpoint.

The theorem bounds how far an attention score between trained distances can lie from the line that joins its
neighbours, and compares that with how far it can lie beyond the trained window. Both are times max_j |h_j|,
which the paper leaves open: here it is measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from nemo_pi.advice.heads import LargestPulls
from nemo_pi.rope.bound import bound_report, largest_error
from nemo_pi.rope.spec import ContextExtension


@dataclass(frozen=True)
class Theorem:
    """The bounds on attention scores q·k, and on logits, which are scores times the softmax's scale."""

    printed: float
    """Of interpolation, as printed (it does not hold)."""
    corrected: float
    """Of interpolation, as it holds."""
    by_pair: float
    """Of interpolation, with each pair's own max |h_j| in place of the largest of all: holds, too."""
    extrapolation: float
    """At the last distance of the target window."""
    distance: int
    """That distance, in tokens."""
    scale: float
    """Of the softmax."""

    @property
    def printed_ratio(self) -> float:
        """Extrapolation to interpolation, as printed; the paper: about 600."""
        return self.extrapolation / self.printed

    @property
    def corrected_ratio(self) -> float:
        """Extrapolation to interpolation, as it holds."""
        return self.extrapolation / self.corrected


def theorem_of(pulls: LargestPulls, plain: ContextExtension, scale: float) -> Theorem:
    """The theorem's numbers with a checkpoint's own max |h_j|.

    Args:
        pulls: the largest |h_j|.
        plain: the checkpoint's plain positions, with the target window.
        scale: what scores are multiplied by before the softmax.
    """
    bounds, largest = bound_report(plain), pulls.largest
    return Theorem(
        printed=bounds.printed * largest,
        corrected=bounds.corrected * largest,
        by_pair=largest_error(pulls.by_pair, plain.rotary_dim, plain.base),
        extrapolation=bounds.extrapolation * largest,
        distance=bounds.distance,
        scale=scale,
    )


def describe_theorem(pulls: LargestPulls, theorem: Theorem) -> str:
    """The numbers, in words."""
    printed, corrected, by_pair, beyond = (
        theorem.scale * bound
        for bound in (theorem.printed, theorem.corrected, theorem.by_pair, theorem.extrapolation)
    )
    place = f"layer {pulls.layer}, head {pulls.head}, pair {pulls.pair} of {len(pulls.by_pair)}, from 0"
    meaning = "interpolation hardly changes what attention prefers"
    if by_pair > 1:
        meaning = "more than 1 may change what attention prefers, until training mends it"
    return (
        f"Largest |h_j| in {pulls.num_tokens:,} tokens of your text: {pulls.largest:.3g} ({place}). Between "
        f"trained positions an attention logit is off by at most {printed:.3g} as printed, "
        f"{corrected:.3g} as it holds, {by_pair:.3g} with each pair's own largest |h_j|: {meaning}. "
        f"Beyond them, {theorem.distance:,} tokens back, plain positions may be off by {beyond:,.0f}: "
        f"{theorem.printed_ratio:,.0f} times as much as printed, {theorem.corrected_ratio:,.0f} times as it "
        "holds."
    )
