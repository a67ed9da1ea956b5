"""Models without memory for their weights."""

from __future__ import annotations

import torch
from torch import nn

from nemo_pi.verification.empty import InTurn, give_storage, without_weights


class Half(nn.Module):
    """A linear layer, and a table that is no weight."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.register_buffer("table", torch.arange(3.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


def test_parameters_have_no_storage_and_buffers_have_values() -> None:
    with without_weights():
        model = Half()
    assert all(parameter.is_meta for parameter in model.parameters())
    assert model.table.tolist() == [0.0, 1.0, 2.0]
    assert not next(nn.Linear(2, 2).parameters()).is_meta


def test_shared_parameters_stay_shared() -> None:
    with without_weights():
        one, other = nn.Linear(4, 4), nn.Linear(4, 4)
        other.weight = one.weight
    assert other.weight is one.weight


def test_parts_are_filled_in_turn_and_one_at_a_time() -> None:
    with without_weights():
        model = nn.Sequential(Half(), Half())
    held: list[int] = []

    def fill(part: nn.Module) -> None:
        give_storage(part, torch.device("cpu"))
        for parameter in part.parameters():
            parameter.data.fill_(0.5)
        held.append(sum(not parameter.is_meta for parameter in model.parameters()))

    passed: list[int] = []
    InTurn(model, fill, keep=False, passed=lambda: passed.append(1))
    x = torch.ones(1, 4)
    for _ in range(2):
        assert model(x).tolist() == [[5.5] * 4]
    assert held == [2, 2, 2, 2]
    assert len(passed) == 4
    assert all(parameter.is_meta for parameter in model.parameters())


def test_kept_parts_are_filled_once() -> None:
    with without_weights():
        model = nn.Sequential(Half(), Half())
    filled: list[nn.Module] = []

    def fill(part: nn.Module) -> None:
        give_storage(part, torch.device("cpu"))
        filled.append(part)

    InTurn(model, fill, keep=True)
    for _ in range(3):
        model(torch.ones(1, 4))
    assert len(filled) == 2
