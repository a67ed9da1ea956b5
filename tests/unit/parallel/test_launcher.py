"""What a launcher says of the world, before there is a process group."""

from __future__ import annotations

import pytest

from nemo_pi.parallel import launcher

VARIABLES = ("WORLD_SIZE", "SLURM_NTASKS", "SLURM_PROCID", "RANK", "LOCAL_RANK")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("environment", "size"),
    [
        ({}, 1),
        ({"WORLD_SIZE": "4"}, 4),
        ({"WORLD_SIZE": "4", "SLURM_NTASKS": "1"}, 4),
        ({"WORLD_SIZE": ""}, 1),
        ({"SLURM_NTASKS": "16"}, 1),  # the shell of an allocation
    ],
)
def test_world_size_is_the_launchers(
    environment: dict[str, str], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launcher.launched_world_size() == size


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "8", "LOCAL_RANK": "0"}, False),
        ({"SLURM_PROCID": "3"}, False),
        ({"LOCAL_RANK": "1"}, False),
    ],
)
def test_one_rank_speaks(environment: dict[str, str], first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launcher.is_global_zero() is first
