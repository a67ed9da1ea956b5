"""Answers of several ranks, which are started for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.parallel import groups
from nemo_pi.parallel.layout import ParallelLayout
from nemo_pi.verification import layouts
from nemo_pi.verification.answers import answer
from nemo_pi.verification.layouts import answer_on_ranks
from nemo_pi.verification.probes import make_probes
from tests.unit.verification.folders import folder_of


@pytest.mark.slow
def test_two_ranks_answer_as_one_does(tmp_path: Path) -> None:
    summary = read_summary(folder_of(tmp_path / "model"))
    probes = make_probes(summary.extension, summary.shape.vocab_size, 16, seed=0)
    how = {"dtype": torch.float32, "keep": True}
    layout = ParallelLayout(tp=2, sequence_parallel=True)
    shared = answer_on_ranks(summary.path, layout, probes, **how)
    alone = answer(summary, ParallelLayout(), probes, export_to=tmp_path / "out", **how)
    groups.destroy()
    torch.testing.assert_close(shared.logits_BSV, alone.logits_BSV, rtol=0, atol=1e-4)
    torch.testing.assert_close(shared.packed_SV, alone.packed_SV, rtol=0, atol=1e-4)
    assert shared.unlike == alone.unlike == ()
    assert shared.cached_CV is None and alone.cached_CV is not None


@pytest.mark.slow
def test_what_a_rank_dies_of_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = read_summary(folder_of(tmp_path / "model"))
    probes = make_probes(summary.extension, summary.shape.vocab_size, 16, seed=0)
    monkeypatch.setattr(layouts, "_JOB", "another.json")
    with pytest.raises(RuntimeError, match="No such file"):
        answer_on_ranks(summary.path, ParallelLayout(), probes, dtype=torch.float32, keep=True)
