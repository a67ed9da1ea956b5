"""SlurmJob refuses, with the field's name, what sbatch or the container would stumble over later."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from nemo_pi.errors import ConfigError
from nemo_pi.launch.job import SlurmJob, seconds_of


@pytest.mark.parametrize(
    ("time", "seconds"),
    # The forms that sbatch's manual lists.
    [
        ("30", 1800),
        ("30:15", 1815),
        ("04:00:00", 14400),
        ("1-6", 108000),
        ("1-06:30", 109800),
        ("1-06:30:05", 109805),
    ],
)
def test_seconds_of(time: str, seconds: int) -> None:
    assert seconds_of(time) == seconds
    assert SlurmJob(time=time, signal_lead_seconds=60).time == time


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("job_name", "two words"),
        ("job_name", ""),
        ("nodes", 0),
        ("nodes", "2"),
        ("nodes", True),
        ("gpus_per_node", -8),
        ("cpus_per_node", 0),
        ("time", "4h"),
        ("time", "04:99:00"),
        ("time", ""),
        ("partition", "gpu;rm -r"),
        ("account", "a\n#SBATCH --nodes=9"),
        ("signal_lead_seconds", -1),
        ("signal_lead_seconds", 14400),  # as long as the job
        ("signal_lead_seconds", 70000),  # more than sbatch takes
        ("max_requeues", -1),
        ("container_image", ""),
        ("container_image", "an image"),
        ("container_mounts", ("/data",)),
        ("container_mounts", ("/data:data",)),  # a relative target
        ("container_mounts", ("/a:/results,/b:/b",)),  # two in one
        ("container_workdir", "opt/nemo_pi"),
        ("entry_point", ""),
        ("results_folder", "results"),
        ("results_folder", "/opt/nemo_pi/results"),  # gone with the container
        ("arguments", ("model.x 3",)),
        ("arguments", ("=3",)),
        ("log_file", "a log"),
    ],
)
def test_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ConfigError) as raised:
        SlurmJob(**{field: value})
    assert raised.value.field == f"SlurmJob.{field}"
    assert raised.value.required and raised.value.fix


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (
            "arguments",
            ("model=llama-7b", "+trainer.max_time=00:03:45:00", "++a.b=[1, 2]", "~a.b", "--cfg", "-cn=x"),
        ),
        ("container_mounts", ("/a:/results:ro", "/b/c:/b")),
        ("container_image", "nvcr.io#nvidia/pytorch:25.09-py3"),
        ("cpus_per_node", 64),
        ("signal_lead_seconds", 0),
        ("results_folder", "/results/deeper"),
    ],
)
def test_accepted(field: str, value: Any) -> None:
    assert getattr(SlurmJob(**{field: value}), field) == value


def test_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SlurmJob().nodes = 3  # type: ignore[misc]
