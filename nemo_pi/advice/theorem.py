"""Theorem 2.1 of Position Interpolation (arXiv 2306.15595) in the numbers of one checkpoint.

The theorem bounds how far an attention score between trained distances can lie from the line that joins its
neighbours, and compares that with how far it can lie beyond the trained window. Both are times max_j |h_j|,
which the paper leaves open: here it is measured.
"""

from __future__ import annotations

from nemo_pi.advice.heads import LargestPulls
from nemo_pi.rope.bound import bound_report, largest_error
from nemo_pi.rope.spec import ContextExtension


def describe_theorem(pulls: LargestPulls, plain: ContextExtension, scale: float) -> str:
    """The theorem's numbers with a checkpoint's own max |h_j|, in words.

    Bounds are on attention logits, which are scores q·k times the softmax's scale.

    Args:
        pulls: the largest |h_j|.
        plain: the checkpoint's plain positions, with the target window.
        scale: what scores are multiplied by before the softmax.
    """
    bounds = bound_report(plain).times(pulls.largest * scale)
    # Each pair's own max |h_j| in place of the largest of all: tighter, and holds, too.
    by_pair = scale * largest_error(pulls.by_pair, plain.rotary_dim, plain.base)
    place = f"layer {pulls.layer}, head {pulls.head}, pair {pulls.pair} of {len(pulls.by_pair)}, from 0"
    meaning = "interpolation hardly changes what attention prefers"
    if by_pair > 1:
        meaning = "more than 1 may change what attention prefers, until training mends it"
    return (
        f"Largest |h_j| in {pulls.num_tokens:,} tokens of your text: {pulls.largest:.3g} ({place}). Between "
        f"trained positions an attention logit is off by at most {bounds.printed:.3g} as printed, "
        f"{bounds.corrected:.3g} as it holds, {by_pair:.3g} with each pair's own largest |h_j|: {meaning}. "
        f"Beyond them, {bounds.distance:,} tokens back, plain positions may be off by "
        f"{bounds.extrapolation:,.0f}: {bounds.printed_ratio:,.0f} times as much as printed, "
        f"{bounds.corrected_ratio:,.0f} times as it holds."
    )
