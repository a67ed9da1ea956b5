"""PoSE: how a sample is cut into chunks, which positions they take and where their text is read.

arXiv 2309.10400, section 3.2. Chunk i of l_i tokens begins at token st_i = l_0 + … + l_{i−1} of the sample
and takes the positions u_i + st_i, u_i + st_i + 1, … (equation 4) and the text x[v_i + st_i], … (equation 5).
`nemo_pi.rope.pose_spec.SAMPLERS` names the ways to draw l, u and v:

* paper: lengths as in the paper's own listing (figure 6), the first uniform in 1 … L_c − (N − 1), each next
  one uniform in what leaves a token for the others; u_0 = 0 and u_i uniform in u_{i−1} … L_t − L_c.
* released: as the authors' code draws: two chunks, the first of 1 to (L_c + 1) // 2 tokens, u_1 uniform.
* contiguous: chunks of equal length (within a token), the skips N − 1 sorted uniform draws, text unbroken.
* random: randomised positions (arXiv 2305.16843), the paper's baseline: a sorted random subset of the
  target's positions. That is the limit of one chunk to a token.

Shape legend: N chunks, S tokens of a sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nemo_pi.rope.pose_spec import PoseSpec

Ints = NDArray[np.int64]
Random = np.random.RandomState


@dataclass(frozen=True)
class Chunks:
    """One draw."""

    lengths_N: Ints
    """Tokens of each chunk (l_i), at least 1."""
    skips_N: Ints
    """What is added to each chunk's positions (u_i), never falling."""
    offsets_N: Ints
    """How much further on each chunk's text is read (v_i), never falling."""

    @property
    def starts_N(self) -> Ints:
        """Place of each chunk's first token in the sample (st_i)."""
        return np.cumsum(self.lengths_N) - self.lengths_N

    def positions(self) -> Ints:
        """Positions [S], strictly rising."""
        return np.arange(self.lengths_N.sum()) + np.repeat(self.skips_N, self.lengths_N)


def draw_chunks(spec: PoseSpec, length: int, random: Random, source_length: int | None = None) -> Chunks:
    """Cut a sample, or one document of a packed row.

    Offsets are drawn last: positions are the same whatever text there is.

    Args:
        spec: what is asked for.
        length: tokens to cut (L_c), at least 1; below num_chunks, each is a chunk.
        random: where the numbers come from.
        source_length: tokens that can be read from the first on (L_x), at least `length`; None: no more.
    """
    lengths_N, skips_N = _DRAWS[spec.sampler](
        min(spec.num_chunks, length), length, spec.target_window - length, random
    )
    if spec.content_offset == "aligned":
        offsets_N = skips_N
    elif spec.content_offset == "uniform":
        offsets_N = _rising(len(lengths_N), (source_length or length) - length, random)
    else:
        offsets_N = np.zeros_like(skips_N)
    return Chunks(lengths_N, skips_N, offsets_N)


def _uniform(low: int, high: int, random: Random) -> int:
    """A whole number from low to high, both included."""
    return int(random.randint(low, high + 1, dtype=np.int64))


def _rising(count: int, highest: int, random: Random) -> Ints:
    """0, then each uniform from the one before to `highest`."""
    values = [0]
    while len(values) < count:
        values.append(_uniform(values[-1], highest, random))
    return np.array(values)


def _paper(count: int, length: int, room: int, random: Random) -> tuple[Ints, Ints]:
    lengths, rest = [], length
    for others in range(count - 1, 0, -1):
        # Each of the others is left a token at least.
        lengths.append(_uniform(1, rest - others, random))
        rest -= lengths[-1]
    return np.array([*lengths, rest]), _rising(count, room, random)


def _released(count: int, length: int, room: int, random: Random) -> tuple[Ints, Ints]:
    if count == 1:
        return np.array([length]), np.array([0])
    first = _uniform(1, (length + 1) // 2, random)
    return np.array([first, length - first]), np.array([0, _uniform(0, room, random)])


def _contiguous(count: int, length: int, room: int, random: Random) -> tuple[Ints, Ints]:
    # Edges are rounded, not lengths: so the chunks add up to the sample.
    edges = np.arange(count + 1) * length // count
    skips = np.sort(random.randint(0, room + 1, size=count - 1, dtype=np.int64))
    return np.diff(edges), np.concatenate([[0], skips])


def _random(count: int, length: int, room: int, random: Random) -> tuple[Ints, Ints]:
    places = _subset(length, length + room, random)
    # The i-th chunk is the i-th token: its skip is what its position exceeds i by.
    return np.ones(length, dtype=np.int64), places - np.arange(length)


def _subset(size: int, population: int, random: Random) -> Ints:
    """A sorted random subset of range(population); the work follows its size, not the population's."""
    # Few enough to permute them all; beyond, that would cost as much as the target window is long.
    if population < 4 * size:
        return np.sort(random.permutation(population)[:size].astype(np.int64))
    chosen = np.empty(0, dtype=np.int64)
    while len(chosen) < size:
        more = np.concatenate([chosen, random.randint(0, population, size=size, dtype=np.int64)])
        # The first distinct draws, in the order of drawing, are a uniform subset.
        chosen = more[np.sort(np.unique(more, return_index=True)[1])]
    return np.sort(chosen[:size])


_DRAWS: dict[str, Callable[[int, int, int, Random], tuple[Ints, Ints]]] = {
    "paper": _paper,
    "released": _released,
    "contiguous": _contiguous,
    "random": _random,
}
