"""Attention by whole rows of scores against one call in float64.

Shape legend: B batch, N query heads, G key/value heads, S tokens, D head dim.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from nemo_pi.kernels import row_attention
from nemo_pi.kernels.attention import ROWS
from nemo_pi.kernels.row_attention import attend_by_rows
from nemo_pi.model.causal import attend_causally
from tests.unit.kernels.causal_inputs import N, check_against_one_call, draw


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_attention, "_MOST_QUERIES", 4)
    monkeypatch.setattr(row_attention, "_FEWEST_QUERIES", 2)
    monkeypatch.setattr(row_attention, "_LARGEST_TILE", 100)


@pytest.mark.parametrize(("groups", "scale"), [(N, None), (2, 0.3), (1, None)])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 9, 31, 64])
def test_equals_one_call(length: int, groups: int, scale: float | None) -> None:
    """Lengths of whole tiles and others, forward and backward, queries grouped or not."""
    check_against_one_call(attend_by_rows, length, groups, scale)


def test_tiles_shrink_as_the_sequence_grows() -> None:
    """So that memory stays linear: 4 queries at once, then 100 // 40, then never fewer than 2."""
    for length, size in ((20, 4), (40, 2), (90, 2)):
        tiles = list(row_attention._tiles(length))
        assert tiles[0] == slice(0, size) and tiles[-1].stop == length
        assert all(one.stop == other.start for one, other in pairwise(tiles))


def test_who_takes_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_attention, "_SHORTEST", 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    q, k, v = draw(16)
    assert ROWS.takes(q, k, v) and not ROWS.takes(*(x[:, :, :15] for x in (q, k, v)))
    assert "Rows" not in attend_causally(q, k, v).grad_fn.name()  # type: ignore[union-attr]
    out = attend_causally(q, k, v, backend=ROWS)
    assert "Rows" in out.grad_fn.name()  # type: ignore[union-attr]
    (grad,) = torch.autograd.grad(out.sum(), q)
    assert all(x.permute(2, 0, 1, 3).is_contiguous() for x in (out, grad))
