"""What is put away comes back bit for bit, and a file of it never outlives its process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nemo_pi.errors import ConfigError
from nemo_pi.model.activation_places import DiskStore, store_of
from nemo_pi.model.activation_store import IN_PLACE, Chain


def odd_tensors() -> list[Tensor]:
    """Dtypes, strides, a view into something larger, one number."""
    x = torch.randn(4, 6, 8)
    return [
        x,
        x.permute(2, 0, 1),
        x.bfloat16(),
        x[:, 2:4],
        x[1:3],
        x.double().expand(2, 4, 6, 8),
        torch.tensor(float("nan")),
    ]


@pytest.mark.parametrize("kind", [None, "disk"])
def test_comes_back_as_it_was(kind: str | None, tmp_path: Path) -> None:
    store, tensors = store_of(kind, str(tmp_path)), odd_tensors()
    for put, found in zip(tensors, store.put(tensors).get(), strict=True):
        assert put.dtype == found.dtype and put.shape == found.shape
        assert torch.equal(put, found) or bool(put.isnan().all() and found.isnan().all())
    for dense in tensors[:3]:
        assert store.put([dense]).get()[0].stride() == dense.stride()


def test_places_are_used_again(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    for step in range(3):
        held = [store.put([torch.full((100,), float(10 * step + layer))]) for layer in range(4)]
        for layer in reversed(range(4)):
            assert held[layer].get()[0].tolist() == [10.0 * step + layer] * 100
    assert store.size == 4 * 400


def test_a_chain_brings_the_one_before_along(tmp_path: Path) -> None:
    """Read while the later layer computes; those of another pass stay."""
    store = DiskStore(tmp_path)
    chain, reads = Chain(store), []
    read = store._read
    store._read = lambda place, flats: (reads.append(place), read(place, flats))[1]  # type: ignore[method-assign]
    passes = [
        [chain.put([torch.ones(10)], first=layer == 0, stays=layer == 2) for layer in range(3)]
        for _ in range(2)
    ]
    passes[0][2].get()
    store._worker.submit(lambda: None).result()
    assert reads == [40]  # the second layer's
    passes[0][1].get(), passes[0][0].get()
    assert reads == [40, 0]


def test_writes_do_not_pile_up(tmp_path: Path) -> None:
    """A disk that is slower than the layers holds them up; else memory would fill."""
    store, go = DiskStore(tmp_path), threading.Event()
    write, waiting = store._write, []
    store._write = lambda *args: (waiting.append(1), go.wait(), write(*args))[2]  # type: ignore[method-assign]
    done = threading.Event()

    def put_many() -> None:
        for _ in range(6):
            store.put([torch.ones(10)])
        done.set()

    threading.Thread(target=put_many, daemon=True).start()
    assert not done.wait(0.3)
    go.set()
    assert done.wait(10)


def test_a_disk_that_fails_ends_the_step(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    held = store.put([torch.ones(10)])
    store._worker.submit(lambda: None).result()
    os.ftruncate(store._file.fileno(), 0)
    with pytest.raises(OSError, match="shorter"):
        held.get()


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="activations_offload_folder"):
        DiskStore(tmp_path / "none").put([torch.ones(10)])


def test_in_place_is_no_copy() -> None:
    tensor = torch.ones(3)
    assert IN_PLACE.put([tensor]).get()[0] is tensor


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_leaves_nothing_behind(number: int, tmp_path: Path) -> None:
    """In the middle of a step: some activations are written, some are on their way."""
    script = f"""
        import torch
        from pathlib import Path
        from nemo_pi.model.activation_places import DiskStore
        store = DiskStore(Path({str(tmp_path)!r}))
        held = [store.put([torch.ones(1 << 20)]) for _ in range(4)]
        print("written", flush=True)
        while True:
            held.append(store.put([torch.ones(1 << 20)]))
            held.pop(0).get()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "written\n"
    before = _file_bytes(process.pid)
    process.send_signal(number)
    assert process.wait(60) == -number
    process.stdout.close()
    assert before >= 4 << 22
    assert list(tmp_path.iterdir()) == []


def _file_bytes(pid: int) -> int:
    """Of the largest file that a process has open."""
    opened = Path(f"/proc/{pid}/fd")
    if not opened.exists():
        pytest.skip("needs /proc")
    return max(os.stat(each).st_size for each in opened.iterdir() if each.exists() or each.is_symlink())
