"""LongLoRA's shifted sparse attention for training (arXiv 2309.12307, section 3.2); everything else is full.

A row is cut into groups that attend within themselves; for the second half of the heads the cuts lie half a
group further on, so that what a group knows reaches its neighbours in the next layer. The authors' code makes
these cuts by rolling the row, which puts its first half group behind its last one, where the first tokens see
the last. Here both half groups stand alone, and no token sees a later one; all other outputs are theirs.

Work falls from S² to S times the group. It is another function than full attention: what is trained with it
is evaluated, and used, with full attention.

Shape legend: B batch, N query heads, G key/value heads, S tokens, D head dim, g tokens of a group.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nemo_pi.kernels.attention import NATIVE, SDPA, CausalAttention

NAME = "shifted"
"""In the YAML."""
SHARE = 4
"""Groups of a row where none are asked for: the paper's."""


@dataclass(frozen=True)
class ShiftedAttention:
    """Attends in groups while a model is trained."""

    group: int | None = None
    """Tokens of a group, even; None: a quarter of the row."""
    shifted_from: int | None = None
    """The first of this rank's heads whose groups are shifted; None: the second half of them."""
    full: CausalAttention = NATIVE
    """What attends within a group, and to whole rows where nothing is trained; what it does not take is
    PyTorch's."""

    def of_heads(self, before: int, own: int, heads: int) -> ShiftedAttention:
        """The same for a rank that has some of the heads.

        Args:
            before: heads on earlier ranks.
            own: heads on this one.
            heads: of the whole layer.
        """
        return replace(self, shifted_from=min(max(heads // 2 - before, 0), own))

    def takes(self, q_BNQD: Tensor, k_BGKD: Tensor, v_BGKD: Tensor) -> bool:
        """As CausalAttention: whole rows of whole groups."""
        length = q_BNQD.size(2)
        return length == k_BGKD.size(2) and length % self._group(length) == 0

    def attend(self, q_BNQD: Tensor, k_BGKD: Tensor, v_BGKD: Tensor, scale: float | None) -> Tensor:
        """As CausalAttention, but query i sees the keys of its own group only."""
        heads, length = q_BNQD.shape[1:3]
        group, first = self._group(length), self.shifted_from
        first = heads // 2 if first is None else first
        outs = []
        for start, stop, shift in ((0, first, 0), (first, heads, group // 2)):
            if start < stop:
                qkv = q_BNQD[:, start:stop], *(_of_heads(x, start, stop, heads) for x in (k_BGKD, v_BGKD))
                outs.append(self._in_groups(qkv, group, shift, scale))
        return torch.cat(outs, dim=1)

    def _group(self, length: int) -> int:
        return self.group or max(length // SHARE, 1)

    def _in_groups(self, qkv: tuple[Tensor, ...], group: int, shift: int, scale: float | None) -> Tensor:
        """Groups of a row, those between two shifted ends as rows of one batch."""
        length = qkv[0].size(2)
        outs = []
        for start, stop, size in (
            (0, shift, shift),
            (shift, length - shift, group),
            (length - shift, length, shift),
        ):
            if start < stop:
                rows = (x[:, :, start:stop].unflatten(2, (-1, size)).transpose(1, 2) for x in qkv)
                out = self._attend_fully(*(x.flatten(0, 1) for x in rows), scale=scale)
                outs.append(out.unflatten(0, (qkv[0].size(0), -1)).transpose(1, 2).flatten(2, 3))
        return torch.cat(outs, dim=2)

    def _attend_fully(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float | None) -> Tensor:
        chosen = self.full if self.full.takes(q, k, v) else SDPA
        return chosen.attend(q, k, v, scale)


def _of_heads(x_BGSD: Tensor, start: int, stop: int, heads: int) -> Tensor:
    """The keys or values of query heads `start` to `stop`."""
    shared = heads // x_BGSD.size(1)
    if start % shared or stop % shared:
        # A key head's query heads are on both sides of the cut.
        return x_BGSD.repeat_interleave(shared, dim=1)[:, start:stop]
    return x_BGSD[:, start // shared : stop // shared]


SHIFTED = ShiftedAttention()
