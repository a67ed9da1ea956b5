"""A checkpoint opened as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.engine.opening import open_engine
from nemo_pi.errors import BackendUnavailableError
from nemo_pi.model.build import BuildOptions
from nemo_pi.parallel.layout import ParallelLayout
from tests.unit.model.models import SHAPE, WINDOW, ours_from, plain, transformers_model

pytestmark = pytest.mark.usefixtures("one_rank")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_weights_and_positions_are_the_checkpoints(dtype: torch.dtype, tmp_path: Path) -> None:
    linear = {"rope_type": "linear", "rope_theta": 5000.0, "factor": 4.0}
    transformers_model(rope_parameters=linear, max_position_embeddings=4 * WINDOW).save_pretrained(tmp_path)
    engine = open_engine(read_summary(tmp_path), ParallelLayout(), BuildOptions(params_dtype=dtype))
    (model,) = engine.chunks
    assert engine.settings.shape == SHAPE
    extension = model.rotary_tables.extension
    assert (extension.method, extension.base, extension.target_window) == ("linear", 5000.0, 4 * WINDOW)
    expected = dict(ours_from(tmp_path).named_parameters())
    for name, weight in model.named_parameters():
        assert torch.equal(weight, expected[name].to(dtype)), name
    assert plain() != extension


def test_a_kernel_that_cannot_be_had_is_refused(tmp_path: Path) -> None:
    transformers_model().save_pretrained(tmp_path)
    layout = ParallelLayout(cp=2, cp_comm_type="p2p")
    with pytest.raises(BackendUnavailableError, match="cp_comm_type"):
        open_engine(read_summary(tmp_path), layout)
