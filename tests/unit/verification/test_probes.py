"""Rows of tokens and positions."""

from __future__ import annotations

import pytest
import torch

from nemo_pi.errors import ConfigError
from nemo_pi.rope.spec import ContextExtension
from nemo_pi.verification.probes import FAR, make_probes

PLAIN = ContextExtension.unscaled(512, 64)
EXTENDED = ContextExtension.build(original_window=512, target_window=4096, method="yarn", head_dim=64)


def test_rows_reach_where_something_could_go_wrong() -> None:
    probes = make_probes(EXTENDED, 100, 32, seed=0)
    rows = dict(zip(probes.names, probes.positions_BS, strict=True))
    assert rows["inside"].tolist() == list(range(32))
    assert rows["edge"].min() < 512 <= rows["edge"].max()
    assert int(rows["target"][-1]) == 4095
    assert int(rows["far"][-1]) == FAR - 1
    assert 4096 < int(rows["beyond"][-1]) < 100 * 4096
    for row in rows.values():
        assert (row.diff() >= 1).all()
    assert int(probes.tokens_BS.max()) < 100


def test_documents_fill_one_row() -> None:
    probes = make_probes(PLAIN, 100, 13, seed=0)
    assert sum(probes.lengths) == 13
    assert probes.packed_tokens().shape == probes.packed_positions().shape == (1, 13)
    assert probes.boundaries().tolist() == [[0, 3, 9, 13]]
    first, second, third = probes.unpacked(probes.packed_positions())
    assert [part.tolist() for part in (first, second, third)] == [
        list(range(3)),
        list(range(6)),
        list(range(4)),
    ]
    alone = probes.tokens_BS[probes.documents[1], :6]
    torch.testing.assert_close(probes.unpacked(probes.packed_tokens())[1], alone)


def test_a_model_that_is_not_scaled_has_no_target_row_and_a_short_one_no_edge() -> None:
    assert "target" not in make_probes(PLAIN, 100, 32, seed=0).names
    assert "edge" not in make_probes(ContextExtension.unscaled(16, 64), 100, 32, seed=0).names


def test_rows_that_are_too_short_are_refused() -> None:
    with pytest.raises(ConfigError, match="--tokens 8"):
        make_probes(PLAIN, 100, 7, seed=0)
