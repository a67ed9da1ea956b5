"""Megatron's groups in a world of one."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from megatron.core import parallel_state

from nemo_pi.parallel import groups, launcher
from nemo_pi.parallel.layout import ParallelLayout

LAUNCHERS = ("WORLD_SIZE", "SLURM_NTASKS", "RANK", "MASTER_ADDR")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)


def test_joining_twice_is_joining_once() -> None:
    groups.ensure_process_group()
    groups.ensure_process_group()
    assert dist.get_world_size() == 1
    groups.destroy()
    assert not dist.is_initialized()
    groups.destroy()  # nothing is up: nothing happens


def test_groups_come_and_go() -> None:
    groups.ensure_process_group()
    groups.initialize(ParallelLayout(), seed=1)
    groups.initialize(ParallelLayout(), seed=1)  # once they are up, only the seed is taken
    assert parallel_state.model_parallel_is_initialized()
    groups.destroy()
    assert not parallel_state.model_parallel_is_initialized()


def test_seed_decides_random_numbers() -> None:
    groups.ensure_process_group()
    draws = []
    for seed in (7, 7, 8):
        groups.initialize(ParallelLayout(), seed)
        draws.append(torch.randn(4))
    groups.destroy()
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


@pytest.mark.usefixtures("one_rank")
def test_a_world_of_one() -> None:
    sizes = (groups.tensor_size(), groups.pipeline_size(), groups.data_size(), groups.context_size())
    ranks = (groups.tensor_rank(), groups.pipeline_rank(), groups.data_rank(), groups.context_rank())
    assert sizes == (1, 1, 1, 1) and ranks == (0, 0, 0, 0) and groups.replica_rank() == 0
    for group in (
        groups.tensor_group(),
        groups.pipeline_group(),
        groups.context_group(),
        groups.data_group(),
        groups.data_group(False),
    ):
        assert dist.get_process_group_ranks(group) == [0]
    assert groups.is_first_stage(None) and groups.is_last_stage(None)
    assert launcher.is_global_zero()


@pytest.mark.usefixtures("one_rank")
def test_broadcast_is_in_place() -> None:
    tensor = torch.tensor([1.0, 2.0])
    assert groups.broadcast_from_last_stage(tensor) is tensor
    assert tensor.tolist() == [1.0, 2.0]


@pytest.mark.usefixtures("one_rank")
def test_gathering_over_one_rank_changes_nothing() -> None:
    """Over more: tests/integration/test_evaluation.py."""
    tensor = torch.arange(6.0).view(2, 3).t()  # not contiguous
    for gather in (groups.gather_over_data, groups.gather_over_context):
        assert torch.equal(gather(tensor, dim=1), tensor)


def test_backend_and_device_go_together() -> None:
    on_gpu = torch.cuda.is_available()
    assert groups.default_backend() == ("nccl" if on_gpu else "gloo")
    assert groups.device().type == ("cuda" if on_gpu else "cpu")
