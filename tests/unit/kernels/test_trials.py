"""What candidates do in a race: the work of the run, on rows that are long where the run's are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nemo_pi.kernels.needs import AttentionNeeds, Capability
from nemo_pi.kernels.registry import Backend
from nemo_pi.kernels.trials import LONG_ROW, trial_of


class _Lengths:
    """An attention that says how long its rows are and computes next to nothing."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def takes(self, *heads: Tensor) -> bool:
        return True

    def attend(self, q_BNQD: Tensor, k_BGKD: Tensor, v_BGKD: Tensor, scale: float | None) -> Tensor:
        self.seen.append(q_BNQD.size(2))
        return q_BNQD + (k_BGKD + v_BGKD).repeat_interleave(q_BNQD.size(1) // k_BGKD.size(1), dim=1)


@pytest.mark.parametrize(
    ("tokens", "least", "most"),
    [(64, 64, 64), (4096, 512, 4096), (LONG_ROW, LONG_ROW, LONG_ROW), (2**17, LONG_ROW, LONG_ROW)],
)
def test_long_rows_are_tried_long(tokens: int, least: int, most: int) -> None:
    lengths = _Lengths()
    backend = Backend("lengths", "attention", Capability(), lambda: lengths)
    needs = AttentionNeeds(width=64, heads=4, groups=2, tokens=tokens, dtype=torch.float32)
    trial_of("attention", backend, needs)()
    assert least <= lengths.seen[0] <= most
