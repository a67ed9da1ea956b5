"""Cuts a rank's share of a global batch into micro-batches on the device.

Shape legend: B micro-batch rows, S sequence.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from nemo_pi.model.core_attention import DocumentBoundaries


def micro_batches(batch: dict[str, Tensor], size: int, device: torch.device) -> Iterator[dict[str, Tensor]]:
    """Yields consecutive micro-batches of `size` rows, moved to `device`."""
    for start in range(0, batch["tokens"].size(0), size):
        yield {key: value[start : start + size].to(device, non_blocking=True) for key, value in batch.items()}


def document_boundaries(batch: dict[str, Tensor]) -> DocumentBoundaries | None:
    """Boundaries of a micro-batch, or None where every row is one document (plain causal attention).

    Args:
        batch: may hold cu_seqlens [B, K], ascending document starts, padded with S.
    """
    cu_seqlens_BK = batch.get("cu_seqlens")
    if cu_seqlens_BK is None:
        return None
    length = batch["tokens"].size(1)
    rows = [tuple(sorted(set(row))) for row in cu_seqlens_BK.tolist()]
    if all(row == (0, length) for row in rows):
        return None
    return DocumentBoundaries(starts=tuple(rows))
