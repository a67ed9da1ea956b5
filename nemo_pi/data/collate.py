"""Samples into batches, and document boundaries back out of their padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nemo_pi.data.samples import Sample


def collate(samples: Sequence[Sample]) -> dict[str, Tensor]:
    """Stack samples of equal length: every entry gains a leading batch dimension B.

    ``cu_seqlens`` becomes int32[B, S+1], each row padded with S.
    """
    return {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}


def trim_cu_seqlens(cu_seqlens: Tensor) -> Tensor:
    """Boundaries of one sample without their padding: int32[num_docs + 1], first 0, last S."""
    num_documents = int((cu_seqlens < cu_seqlens[-1]).sum())
    return cu_seqlens[: num_documents + 1]
