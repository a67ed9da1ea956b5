"""Samples into batches."""

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
