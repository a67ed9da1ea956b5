"""An import holds this rank's part of the model and little more, measured in processes of their own."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from benchmarks.import_memory import BOUND, TINY, stored_mib, write_model
from benchmarks.training.memory import MIB, forget_highest, from_status, return_freed_tensors
from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.engine.opening import open_engine
from nemo_pi.families.shape import ModelShape
from nemo_pi.model.options import BuildOptions
from nemo_pi.parallel.layout import ParallelLayout
from tests.unit.checkpoint.models import run_ranks

# 2.2 times the block that is read at once, so that whole copies of a tensor would show.
SHAPE = ModelShape(
    num_layers=4,
    hidden_size=1024,
    ffn_hidden_size=4096,
    num_attention_heads=8,
    num_query_groups=4,
    head_dim=128,
    vocab_size=9001,
)
BF16 = BuildOptions(params_dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny model, and one of 150 MiB in shards."""
    folder = tmp_path_factory.mktemp("models")
    return write_model(folder / "tiny", TINY), write_model(folder / "large", SHAPE)


def peak_of(model: Path, tiny: Path, layout: ParallelLayout) -> tuple[float, float]:
    """MiB that opening a model takes this rank at most, and of its part of it."""
    return_freed_tensors()
    open_engine(read_summary(tiny), layout, BF16)  # what is allocated once is allocated now
    gc.collect()
    before = from_status("VmRSS")
    forget_highest()
    engine = open_engine(read_summary(model), layout, BF16)
    peak = from_status("VmHWM") - before
    weights = [weight for chunk in engine.chunks for weight in chunk.parameters()]
    return peak, sum(weight.numel() * weight.element_size() for weight in weights) / MIB


def check_bound(model: Path, tiny: Path, layout: ParallelLayout) -> None:
    peak, part = peak_of(model, tiny, layout)
    largest, whole = stored_mib(model)
    assert part < 0.6 * whole
    assert peak <= BOUND * (part + largest), f"{peak:.0f} MiB for a part of {part:.0f}, largest {largest:.0f}"


@pytest.mark.parametrize(("tensor", "pipeline"), [(2, 1), (1, 2)])
def test_a_rank_needs_its_part_and_no_second_copy(
    tensor: int, pipeline: int, models: tuple[Path, Path], tmp_path: Path
) -> None:
    tiny, large = models
    layout = ParallelLayout(tp=tensor, pp=pipeline)
    run_ranks(tmp_path, check_bound, large, tiny, layout, world=2, tensor=tensor, pipeline=pipeline)
