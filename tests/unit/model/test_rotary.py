"""The tables that a step's layers share."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nemo_pi.model.rotary import RotaryPlan, RotaryTables
from nemo_pi.rope.query_scale import QueryScale
from nemo_pi.rope.spec import ContextExtension
from tests.unit.model.models import SHAPE, plain
from tests.unit.rope.peers import Peer, make_spec


def test_layout_is_megatrons() -> None:
    """[2, S, B, 1, F]: entry (s, b) is the angle of row b's token s."""
    positions_BS = torch.tensor([[0, 1, 5], [7, 3, 3]])
    tables = RotaryTables(ContextExtension.unscaled(8, 4))(positions_BS)
    assert tables.shape == (2, 3, 2, 1, 2) and tables.dtype == torch.float32
    for row in range(2):
        for token in range(3):
            angle = positions_BS[row, token].double() * torch.tensor([1.0, 0.01], dtype=torch.float64)
            torch.testing.assert_close(tables[0, token, row, 0], angle.cos().float())
            torch.testing.assert_close(tables[1, token, row, 0], angle.sin().float())


@pytest.mark.parametrize("method", ["dynamic", "longrope", "yarn"])
def test_equals_transformers_tables(method: str) -> None:
    """Lengths that change frequencies are read off the positions, the temperature is folded in."""
    spec = make_spec(method, original_window=64, target_window=256, head_dim=16)
    positions_BS = torch.tensor([[0, 3, 40, 200], [1, 2, 9, 100]])
    cos_BSF, sin_BSF = Peer(spec).cos_sin(positions_BS, seq_len=201)
    tables = RotaryTables(spec)(positions_BS)
    torch.testing.assert_close(tables[0, :, :, 0].transpose(0, 1), cos_BSF, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(tables[1, :, :, 0].transpose(0, 1), sin_BSF, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["dynamic", "longrope"])
def test_a_part_of_a_sequence_has_the_whole_ones_frequencies(method: str) -> None:
    """The first tokens of a sequence of 201, which alone would be below the original window."""
    spec = make_spec(method, original_window=64, target_window=256, head_dim=16)
    positions_BS = torch.arange(201)[None]
    whole, tables = RotaryTables(spec)(positions_BS), RotaryTables(spec)
    assert torch.equal(tables(positions_BS[:, :50], seq_len=201), whole[:, :50])
    assert not torch.equal(tables(positions_BS[:, :50]), whole[:, :50])


@pytest.mark.parametrize(
    ("method", "last"), [("dynamic", 63), ("dynamic", 64), ("dynamic", 200), ("longrope", 63)]
)
def test_a_given_length_decides_instead_of_the_positions(method: str, last: int) -> None:
    """Wherever skips happen to end, the frequencies are those of the given length; against transformers'."""
    spec = make_spec(method, original_window=64, target_window=256, head_dim=16)
    positions_BS, tables = torch.tensor([[0, 3, 40, last]]), RotaryTables(spec)
    cos_BSF, _ = Peer(spec).cos_sin(positions_BS, seq_len=256)
    given = tables(positions_BS, seq_len=256)[0, :, 0, 0]
    torch.testing.assert_close(given, cos_BSF[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(given, tables(positions_BS)[0, :, 0, 0], atol=1e-2)


def test_has_nothing_to_save() -> None:
    tables = RotaryTables(ContextExtension.unscaled(64, 16))
    tables(torch.arange(8)[None])
    assert not tables.state_dict() and not list(tables.buffers()) and not list(tables.parameters())


def test_each_kind_of_layer_has_its_tables() -> None:
    """[4, S, B, 1, F]: those of sliding layers follow, as an extension of their own would make them."""
    spec = make_spec("dynamic", original_window=64, target_window=256, head_dim=16)
    local = ContextExtension.unscaled(64, 16, base=500.0)
    positions_BS = torch.tensor([[0, 3, 40, 200]])
    tables = RotaryTables(replace(spec, sliding=local))(positions_BS, seq_len=256)
    assert torch.equal(tables[:2], RotaryTables(spec)(positions_BS, seq_len=256))
    assert torch.equal(tables[2:], RotaryTables(local)(positions_BS))


def test_queries_scale_comes_last() -> None:
    positions_BS = torch.tensor([[0, 63, 64, 200], [1, 2, 3, 4]])
    spec = replace(ContextExtension.unscaled(64, 16), query_scale=QueryScale(0.5, 64))
    tables = RotaryTables(spec)(positions_BS)
    assert tables.shape == (3, 4, 2, 1, 8)
    expected_BS = 1 + 0.5 * torch.log(torch.tensor([[1.0, 1.0, 2.0, 4.0], [1.0] * 4]))
    for column in tables[-1].unbind(-1):
        torch.testing.assert_close(column.squeeze(-1).t(), expected_BS)


def test_a_plan_names_each_layers_tables() -> None:
    shape = replace(
        SHAPE, num_layers=5, sliding_window=8, full_attention_layers=(2, 4), unrotated_layers=(1, 4)
    )
    own = replace(plain(), sliding=plain(base=500.0))
    assert RotaryPlan.of(shape, own).kinds == (1, None, 0, 1, None)
    assert RotaryPlan.of(shape, plain()).kinds == (0, None, 0, 0, None)
    assert not RotaryPlan.of(shape, own).scales_queries
