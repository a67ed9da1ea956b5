"""What a machine has, read from what Linux would say of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemo_pi.config.capacity import Capacity, available_memory, capacity_of, ranks_of_a_node
from nemo_pi.config.memory import MemoryEstimate
from tests.unit.config.builders import run_of

GIB = 1 << 30


def machine(root: Path, **files: str) -> Path:
    for name, text in {"proc/meminfo": f"MemTotal: 9 kB\nMemAvailable:  {8 << 20} kB\n", **files}.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "gib"),
    [
        ({}, 8),
        ({"sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/memory.current": "5"}, 8),
        ({"sys/fs/cgroup/memory.max": f"{4 * GIB}\n", "sys/fs/cgroup/memory.current": f"{GIB}\n"}, 3),
        (
            {
                "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * GIB}",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIB}",
            },
            1,
        ),
    ],
)
def test_a_container_may_have_less_than_its_host(files: dict[str, str], gib: int, tmp_path: Path) -> None:
    assert available_memory(machine(tmp_path, **files)) == gib * GIB


def test_where_nobody_says(tmp_path: Path) -> None:
    assert available_memory(tmp_path) is None
    assert available_memory(machine(tmp_path, **{"proc/meminfo": "MemTotal: 9 kB\n"})) is None


def test_ranks_of_a_machine_share_it() -> None:
    two = run_of({"global_batch_size": 4}, world_size=4, trainer={"max_steps": 100, "num_nodes": 2})
    assert ranks_of_a_node(two) == 2
    one, half = capacity_of(run_of()).host, capacity_of(two).host
    assert one is None or (half is not None and half == pytest.approx(one / 2, rel=0.2))


def test_device_and_host_are_each_compared() -> None:
    estimate = MemoryEstimate(1, 1, 1, 1, 1, 1, host=10)
    assert not Capacity(device=5, host=10).lacks(estimate)
    assert Capacity(device=4, host=10).lacks(estimate)
    assert Capacity(device=5, host=9).lacks(estimate)
    assert not Capacity(device=None, host=None).lacks(estimate)
