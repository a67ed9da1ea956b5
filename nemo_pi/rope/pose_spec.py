"""What positional skip-wise training (PoSE) is to do; `nemo_pi.data.pose_sampler` draws it."""

from __future__ import annotations

from dataclasses import dataclass

SAMPLERS: dict[str, tuple[str, ...]] = {
    "paper": ("uniform", "zero", "aligned"),
    "released": ("uniform",),
    "contiguous": ("zero",),
    "random": ("zero",),
}
"""Samplers, and where each may read the text of its chunks (first: where nothing is said)."""


@dataclass(frozen=True)
class PoseSpec:
    """PoSE (arXiv 2309.10400, section 3.2): short samples whose positions skip through a long window.

    A sample of L_c tokens is cut into N chunks; chunk i gets the skipping bias u_i added to its positions
    and reads its text v_i tokens further on. Both begin at 0 and never fall, so positions rise strictly and
    the last lies within the target window L_t.
    """

    target_window: int
    """L_t, in tokens; longer than any sample."""
    sampler: str = "paper"
    """One of SAMPLERS."""
    num_chunks: int = 2
    """N, at least 2; `random` makes each token a chunk of its own instead."""
    content_offset: str = "uniform"
    """How v_i is chosen: `uniform` in what is left of the document, `zero` (text runs on) or `aligned`
    (v_i = u_i: text from where the positions say)."""

    @property
    def moves_text(self) -> bool:
        """Whether chunks after the first may be read from further on in the text."""
        return self.content_offset != "zero"
