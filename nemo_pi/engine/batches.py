"""Cuts a rank's shard of a global batch into micro-batches on the device.

Shape legend: B micro-batch rows, S sequence, L what this context-parallel rank holds of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nemo_pi.model.core_attention import DocumentBoundaries
from nemo_pi.parallel.context import slice_batch, split_rows


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass of one rank reads."""

    tokens: Tensor
    """int64 [B, L]."""
    labels: Tensor
    """int64 [B, L]: the token that follows each in its row, be it on another rank."""
    loss_mask: Tensor
    """[B, L]: 1 where the label is scored."""
    position_ids: Tensor
    """int64 [B, L]."""
    documents: DocumentBoundaries | None
    """Boundaries within the whole rows; None where every row is one document (plain causal attention)."""
    seq_len: int
    """What frequencies depend on that depend on a length: the largest position of the whole rows plus one,
    or a given length."""

    @property
    def inputs(self) -> dict[str, Any]:
        """What a model's forward pass takes, labels aside."""
        return {
            "input_ids": self.tokens,
            "position_ids": self.position_ids,
            "attention_mask": None,
            "packed_seq_params": self.documents,
            "seq_len": self.seq_len,
        }


def micro_batches(
    batch: dict[str, Tensor],
    size: int,
    device: torch.device,
    context_size: int = 1,
    context_rank: int = 0,
    *,
    rotary_length: int | None = None,
) -> Iterator[MicroBatch]:
    """Yields consecutive micro-batches of `size` rows on `device`, and of each this rank's tokens.

    Args:
        batch: this data-parallel rank's samples, tensors [samples, S]; see data.samples.
        size: rows of a micro-batch.
        device: where to.
        context_size: ranks that every row is split over.
        context_rank: this one among them.
        rotary_length: tokens that frequencies which depend on a length reckon with; None: those of each
            micro-batch. Under PoSE its skips end anywhere in the target window, which is what is trained.
    """
    for start in range(0, batch["tokens"].size(0), size):
        rows = {key: value[start : start + size] for key, value in batch.items()}
        documents, seq_len = document_boundaries(rows), rotary_length
        if seq_len is None:
            # Before rows are split: all ranks need the largest position of the whole rows.
            seq_len = int(rows["position_ids"].max()) + 1
        if context_size > 1:
            starts = [(0, rows["tokens"].size(1))] * rows["tokens"].size(0)
            split = split_rows(starts if documents is None else documents.starts, context_size, context_rank)
            rows = slice_batch(rows, split)
            documents = documents and DocumentBoundaries(documents.starts, split=split.to(device))
        names = ("tokens", "labels", "loss_mask", "position_ids")
        own = {name: rows[name].to(device, non_blocking=True) for name in names}
        yield MicroBatch(**own, documents=documents, seq_len=seq_len)


def document_boundaries(batch: dict[str, Tensor]) -> DocumentBoundaries | None:
    """Boundaries of a micro-batch, or None where every row is one document (plain causal attention).

    Args:
        batch: may hold cu_seqlens [B, K], ascending document starts, padded with S.
    """
    cu_seqlens_BK = batch.get("cu_seqlens")
    if cu_seqlens_BK is None:
        return None
    length = batch["tokens"].size(1)
    # A set: the padding repeats S, and each repetition would be an empty document.
    rows = [tuple(sorted(set(row))) for row in cu_seqlens_BK.tolist()]
    if all(row == (0, length) for row in rows):
        return None
    return DocumentBoundaries(starts=tuple(rows))
