"""Which tokens of each row a context-parallel rank holds: plain numbers and tensors, no process groups.

Under a causal mask the last tokens of a sequence cost the most. So a sequence is cut into 2·cp chunks of one
length, and rank r holds chunks r and 2·cp − 1 − r (zig-zag): every rank then attends to as many keys as any
other. Everything that belongs to a token (label, mask, position) is dealt out with it; document boundaries
stay those of the whole row, because attention reads the keys of the whole row.

Shape legend: B rows, S tokens of a whole row, L = S/cp tokens of a rank's shard.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from nemo_pi.errors import DataError
from nemo_pi.units import plural

Chunk = tuple[int, int]
"""Consecutive tokens of a whole row: first, and one past the last."""


def zigzag_chunks(boundaries: Sequence[int], size: int, rank: int) -> tuple[Chunk, ...]:
    """The tokens that `rank` of `size` holds of one row, each document between two boundaries split zig-zag.

    Args:
        boundaries: ascending, from 0 to the row's length: (0, S) splits the row as one.
        size: context-parallel ranks.
        rank: this one among them.

    Returns:
        Chunks in the order in which the rank holds them; neighbouring ones are joined.

    Raises:
        DataError: a document whose length is not a multiple of 2 · size.
    """
    if size == 1:
        return ((boundaries[0], boundaries[-1]),)
    found: list[Chunk] = []
    for start, stop in pairwise(boundaries):
        chunk = _chunk_length(start, stop, size)
        for number in (rank, 2 * size - 1 - rank):
            first = start + number * chunk
            # The last rank's two chunks are neighbours: as one span they are one call of attention.
            if found and found[-1][1] == first:
                first = found.pop()[0]
            found.append((first, start + (number + 1) * chunk))
    return tuple(found)


def chunk_boundaries(boundaries: Sequence[int], size: int) -> tuple[int, ...]:
    """Between which tokens of a row chunks are made: its documents' ends, or only its own.

    A document that is split by itself costs every rank the same. That needs every document of the row to be
    a multiple of 2 · size long; otherwise the row is split as one, whose chunks know no documents.
    """
    if all((stop - start) % (2 * size) == 0 for start, stop in pairwise(boundaries)):
        return tuple(boundaries)
    return boundaries[0], boundaries[-1]


def _chunk_length(start: int, stop: int, size: int) -> int:
    if (stop - start) % (2 * size):
        raise DataError(
            "context-parallel split",
            required=f"a length that is a multiple of 2 × context_parallel_size = {2 * size}",
            given=f"{plural(stop - start, 'token')} (from {start} to {stop} of the row)",
            fix="pad the document, choose another sequence length, or fewer context-parallel ranks",
        )
    return (stop - start) // (2 * size)


class Span(NamedTuple):
    """Queries of one document that lie together in a rank's shard, and the keys that they may see."""

    queries: slice
    """In the rank's shard of the row."""
    keys: slice
    """In the whole row: from the document's start up to the last query."""


def attention_spans(boundaries: Sequence[int], chunks: Sequence[Chunk]) -> tuple[Span, ...]:
    """Cuts what a rank holds of a row where documents end.

    Args:
        boundaries: of the row's documents, ascending, from 0 to S.
        chunks: what the rank holds, in its order.
    """
    found, held = [], 0
    for first, stop in chunks:
        while first < stop:
            document = bisect_right(boundaries, first) - 1
            end = min(stop, boundaries[document + 1])
            found.append(Span(slice(held, held + end - first), slice(boundaries[document], end)))
            held, first = held + end - first, end
    return tuple(found)


@dataclass(frozen=True)
class ContextSplit:
    """How the rows of one micro-batch are dealt over the context-parallel ranks."""

    size: int
    """Context-parallel ranks."""
    rank: int
    """This one among them."""
    spans: tuple[tuple[Span, ...], ...]
    """Per row, this rank's queries and the keys that they may see."""
    order_BS: Tensor
    """int64, the place in the whole row of each token, rank after rank: entry (b, r·L + l) is where token l
    of rank r's shard of row b belongs."""

    def take(self, x_BS: Tensor) -> Tensor:
        """This rank's shard [B, L] of something per token."""
        share_BL = self.order_BS.chunk(self.size, dim=1)[self.rank]
        return x_BS.gather(1, share_BL.to(x_BS.device))

    def restore(self, x_BS: Tensor) -> Tensor:
        """The inverse: whole rows [B, S] from the shards of all ranks, put one behind the other."""
        return torch.empty_like(x_BS).scatter_(1, self.order_BS.to(x_BS.device), x_BS)

    def to(self, device: torch.device) -> ContextSplit:
        """The same, its order on `device`."""
        return ContextSplit(self.size, self.rank, self.spans, self.order_BS.to(device, non_blocking=True))


def split_rows(rows: Sequence[Sequence[int]], size: int, rank: int) -> ContextSplit:
    """Deals rows over ranks, document by document where all lengths allow it, else row by row.

    Args:
        rows: per row, ascending boundaries of its documents, from 0 to S.
        size: context-parallel ranks.
        rank: this one among them.

    Raises:
        DataError: a row whose length is not a multiple of 2 · size.
    """
    shards = [
        [zigzag_chunks(chunk_boundaries(row, size), size, holder) for holder in range(size)] for row in rows
    ]
    order = [
        torch.cat([torch.arange(first, stop) for shard in row for first, stop in shard]) for row in shards
    ]
    own = tuple(attention_spans(row, shard[rank]) for row, shard in zip(rows, shards, strict=True))
    return ContextSplit(size, rank, own, torch.stack(order))


def slice_batch(batch: Mapping[str, Tensor], split: ContextSplit) -> dict[str, Tensor]:
    """This rank's shard of a micro-batch.

    Args:
        batch: tensors [B, S] of what belongs to a token (tokens, labels, loss_mask, position_ids), and
            cu_seqlens, which is left as it is.
        split: of these rows.
    """
    return {key: value if key == "cu_seqlens" else split.take(value) for key, value in batch.items()}
