"""Distributed checkpoints: at any layout, with the optimizer, and whole or not at all."""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor

from nemo_pi.checkpoint.distributed import load_distributed, save_distributed
from nemo_pi.checkpoint.hf.save import export_huggingface
from nemo_pi.checkpoint.integrity import verify
from nemo_pi.checkpoint.retention import latest_checkpoint
from nemo_pi.checkpoint.summary import read_source_config, read_summary
from nemo_pi.errors import CheckpointError
from tests.unit.checkpoint.models import (
    assert_same_bits,
    build_chunks,
    filled_chunks,
    meta_of,
    model_groups,
    model_state,
    run_ranks,
    stored_tensors,
)
from tests.unit.checkpoint.optimizers import Adam

META: dict[str, Any] = {"shape": {}, "extension": {}, "global_step": 1, "consumed_samples": 8}


def toy(value: float, **extra: Any) -> dict[str, Any]:
    """A state dict of one tensor, and some values that every rank has alike."""
    tensor = torch.full((4, 3), value)
    return {
        "weights": {"a": ShardedTensor.from_rank_offsets("a", tensor)},
        "lr": 1e-3,
        "betas": (0.9, 0.95),
        **extra,
    }


def load_toy(folder: Path) -> float:
    return float(load_distributed(folder, toy(0.0))["weights"]["a"][0, 0])


# -- one rank -------------------------------------------------------------------------------------------


def test_save_and_load(tmp_path: Path, single_rank: None) -> None:
    folder = save_distributed(tmp_path / "runs" / "step_1", toy(5.0, epoch=7), META)
    loaded = load_distributed(folder, toy(0.0))
    assert torch.equal(loaded["weights"]["a"], torch.full((4, 3), 5.0))
    assert (loaded["lr"], loaded["betas"], loaded["epoch"]) == (1e-3, (0.9, 0.95), 7)
    assert [path.name for path in folder.parent.iterdir()] == ["step_1"]


def test_no_process_is_started(tmp_path: Path, single_rank: None) -> None:
    """Megatron's own writer forks a process a file and keeps a manager alive."""
    before = set(os.listdir(f"/proc/{os.getpid()}/task")), list(multiprocessing.active_children())
    started: list[Any] = []
    multiprocessing.process.BaseProcess.start, real = (
        lambda self: started.append(self),
        multiprocessing.process.BaseProcess.start,
    )
    try:
        save_distributed(tmp_path / "a", toy(1.0), META)
        load_toy(tmp_path / "a")
    finally:
        multiprocessing.process.BaseProcess.start = real
    assert started == []
    assert list(multiprocessing.active_children()) == before[1]


def test_the_tokenizer_travels_along(tmp_path: Path, single_rank: None) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    folder = save_distributed(tmp_path / "a", toy(1.0), META, tokenizer_path=tmp_path)
    assert (folder / "tokenizer" / "tokenizer.json").read_text() == "{}"
    assert "tokenizer/tokenizer.json" in verify(folder)["files"]


def test_an_existing_checkpoint_is_not_replaced_unasked(tmp_path: Path, single_rank: None) -> None:
    save_distributed(tmp_path / "a", toy(1.0), META)
    with pytest.raises(CheckpointError, match="given a complete checkpoint"):
        save_distributed(tmp_path / "a", toy(2.0), META)
    assert load_toy(tmp_path / "a") == 1.0
    save_distributed(tmp_path / "a", toy(3.0), META, overwrite=True)
    assert load_toy(tmp_path / "a") == 3.0
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_foreign_folder_is_never_replaced(overwrite: bool, tmp_path: Path, single_rank: None) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        save_distributed(tmp_path / "a", toy(1.0), META, overwrite=overwrite)
    assert (tmp_path / "a" / "thesis.txt").exists()


def test_a_damaged_checkpoint_of_the_same_step_is_replaced(tmp_path: Path, single_rank: None) -> None:
    """A restarted run has skipped it and must be able to pass the same step."""
    folder = save_distributed(tmp_path / "a", toy(1.0), META)
    (folder / "common.pt").write_bytes(b"")
    save_distributed(folder, toy(2.0), META)
    assert load_toy(folder) == 2.0


@pytest.mark.parametrize("missing", ["shape", "extension", "global_step", "consumed_samples"])
def test_meta_must_be_complete_at_once(missing: str, tmp_path: Path, single_rank: None) -> None:
    meta = {key: value for key, value in META.items() if key != missing}
    with pytest.raises(CheckpointError, match=missing):
        save_distributed(tmp_path / "a", toy(1.0), meta)
    assert list(tmp_path.iterdir()) == []


class Opaque:
    """Something that only a full unpickler could bring back."""


@pytest.mark.parametrize("where", ["common", "object"])
def test_what_could_not_be_read_back_is_refused(where: str, tmp_path: Path, single_rank: None) -> None:
    value = Opaque() if where == "common" else ShardedObject("rng", Opaque(), (1,), (0,))
    save_distributed(tmp_path / "1", toy(1.0), META)
    with pytest.raises(CheckpointError, match="plain tensors, numbers, strings and containers"):
        save_distributed(tmp_path / "2", toy(2.0, extra=value), {**META, "global_step": 2})
    assert latest_checkpoint(tmp_path) == tmp_path / "1"
    assert load_toy(tmp_path / "1") == 1.0


def test_plain_objects_come_back(tmp_path: Path, single_rank: None) -> None:
    state = {"seed": 1, "tensor": torch.arange(3)}
    save_distributed(tmp_path / "a", toy(1.0, rng=ShardedObject("rng", state, (1,), (0,))), META)
    loaded = load_distributed(tmp_path / "a", toy(0.0, rng=ShardedObject("rng", None, (1,), (0,))))
    assert loaded["rng"]["seed"] == 1
    assert torch.equal(loaded["rng"]["tensor"], torch.arange(3))


def test_extra_state_is_never_handed_on(tmp_path: Path, single_rank: None) -> None:
    """Transformer Engine would unpickle these bytes without restriction."""

    def extra(data: Any) -> dict[str, Any]:
        return toy(1.0, extra=ShardedObject("linear_qkv._extra_state", data, (1,), (0,)))

    save_distributed(tmp_path / "a", extra(torch.tensor([128, 4], dtype=torch.uint8)), META)
    assert load_distributed(tmp_path / "a", extra(None))["extra"] is None


def test_an_object_with_an_attack_is_not_run(tmp_path: Path, single_rank: None, monkeypatch) -> None:
    victim = tmp_path / "victim"

    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {victim}",)

    with monkeypatch.context() as patched:
        patched.setattr("nemo_pi.checkpoint.dcp_save.load_archive", lambda *args: None)
        save_distributed(tmp_path / "a", toy(1.0, rng=ShardedObject("rng", Attack(), (1,), (0,))), META)
    with pytest.raises(CheckpointError, match="none of its code was run"):
        load_distributed(tmp_path / "a", toy(0.0, rng=ShardedObject("rng", None, (1,), (0,))))
    assert not victim.exists()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"b": ShardedTensor.from_rank_offsets("b", torch.zeros(2))}, "'b'"),
        ({"a": ShardedTensor.from_rank_offsets("a", torch.zeros(4, 5))}, r"\[4, 3\].*\(4, 5\)"),
    ],
)
def test_tensors_that_are_not_there(asked: dict, message: str, tmp_path: Path, single_rank: None) -> None:
    save_distributed(tmp_path / "a", toy(1.0), META)
    with pytest.raises(CheckpointError, match=message):
        load_distributed(tmp_path / "a", asked)


def test_a_failed_save_leaves_the_previous_checkpoint(tmp_path: Path, single_rank: None, monkeypatch) -> None:
    save_distributed(tmp_path / "1", toy(1.0), META)
    before = {path: path.read_bytes() for path in (tmp_path / "1").iterdir()}

    def full_disk(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    for target in (
        "nemo_pi.checkpoint.dcp_save.dcp.save",
        "nemo_pi.checkpoint.distributed.write_json",
        "nemo_pi.checkpoint.files.sync_path",
        "nemo_pi.checkpoint.manifest.sha256_of",
    ):
        with monkeypatch.context() as patched:
            patched.setattr(target, full_disk)
            with pytest.raises(CheckpointError, match="No space left"):
                save_distributed(tmp_path / "2", toy(2.0), {**META, "global_step": 2})
        assert not (tmp_path / "2").exists(), target
        assert latest_checkpoint(tmp_path) == tmp_path / "1"
    assert {path: path.read_bytes() for path in (tmp_path / "1").iterdir()} == before
    save_distributed(tmp_path / "2", toy(2.0), {**META, "global_step": 2})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"], "leftovers are gone"
    assert load_toy(tmp_path / "2") == 2.0


def test_stale_temporary_folders_are_cleaned_next_time(tmp_path: Path, single_rank: None) -> None:
    old, live = tmp_path / ".step_5.partial", tmp_path / ".step_6.partial"
    for folder in (old, live):
        folder.mkdir()
        (folder / "__0_0.distcp").write_bytes(b"half")
    long_ago = time.time() - 7200
    os.utime(old / "__0_0.distcp", (long_ago, long_ago))
    os.utime(old, (long_ago, long_ago))
    assert latest_checkpoint(tmp_path) is None
    save_distributed(tmp_path / "step_7", toy(7.0), META)
    assert not old.exists()
    assert live.exists(), "another run may be writing it this minute"
    save_distributed(tmp_path / "step_6", toy(6.0), META)
    assert not live.exists(), "our own name is ours to clean"


# -- several ranks --------------------------------------------------------------------------------------


def save_model(source: Path, target: Path, virtual: int | None) -> None:
    summary, chunks = filled_chunks(source, virtual=virtual)
    save_distributed(target, model_state(chunks), meta_of(summary))


def load_and_export(checkpoint: Path, target: Path, virtual: int | None) -> None:
    summary = read_summary(checkpoint)
    chunks = build_chunks(summary.shape, virtual=virtual)
    for chunk in chunks:
        for parameter in chunk.parameters():
            parameter.data.fill_(float("nan"))
    loaded = load_distributed(checkpoint, model_state(chunks))
    for number, chunk in enumerate(chunks):
        chunk.load_state_dict(loaded[f"model{number}"])
    export_huggingface(chunks, summary.shape, summary.extension, target, groups=model_groups())


@pytest.mark.parametrize("name", ["llama", "tied_llama"])
def test_a_model_reopens_at_another_layout(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Megatron's own sharding in between: an import that put a slice in a wrong place would show."""
    folder, checkpoint = request.getfixturevalue(name), tmp_path / "step_3"
    virtual = None if name == "tied_llama" else 2
    run_ranks(
        tmp_path, save_model, folder, checkpoint, virtual, world=4, tensor=2, pipeline=2, virtual=virtual
    )
    assert verify(checkpoint)["global_step"] == 3
    assert len(list(checkpoint.glob("*.distcp"))) == 4
    run_ranks(tmp_path, load_and_export, checkpoint, tmp_path / "one", None, world=1)
    run_ranks(tmp_path, load_and_export, checkpoint, tmp_path / "two", None, world=2, tensor=2)
    for out in ("one", "two"):
        assert_same_bits(stored_tensors(tmp_path / out), stored_tensors(folder))


def train(source: Path, out: Path, checkpoint: Path | None, save_to: Path | None, steps: list[int]) -> None:
    """Some optimizer steps, from a checkpoint or from `source`, then a save or an export."""
    summary, chunks = filled_chunks(source)
    adam = Adam(chunks)
    if checkpoint is not None:
        adam.load(load_distributed(checkpoint, adam.state(loading=True)))
    for step in steps:
        adam.step(step)
    if save_to is not None:
        save_distributed(save_to, adam.state(loading=False), meta_of(summary, step=len(steps)))
    export_huggingface(
        chunks,
        summary.shape,
        summary.extension,
        out,
        source_config=read_source_config(source),
        groups=model_groups(),
        replica_rank=dist.get_rank() if dist.get_world_size() == 2 else 0,
    )


def test_the_distributed_optimizer_resumes_at_another_layout(llama: Path, tmp_path: Path) -> None:
    """Two steps on two data-parallel ranks, saved; two more on one rank, or on a 2 × 2 grid."""
    whole, half = tmp_path / "whole", tmp_path / "half"
    run_ranks(tmp_path, train, llama, whole, None, None, [0, 1, 2, 3], world=1)
    run_ranks(tmp_path, train, llama, half, None, tmp_path / "step_2", [0, 1], world=2)
    run_ranks(tmp_path, train, llama, tmp_path / "one", tmp_path / "step_2", None, [2, 3], world=1)
    run_ranks(tmp_path, train, llama, tmp_path / "same", tmp_path / "step_2", None, [2, 3], world=2)
    layout = {"world": 4, "tensor": 2, "pipeline": 2}
    run_ranks(tmp_path, train, llama, tmp_path / "grid", tmp_path / "step_2", None, [2, 3], **layout)
    uninterrupted = stored_tensors(whole)
    for resumed in ("one", "same", "grid"):
        assert_same_bits(stored_tensors(tmp_path / resumed), uninterrupted)
    moved = [
        name for name, tensor in stored_tensors(half).items() if not torch.equal(tensor, uninterrupted[name])
    ]
    assert len(moved) == len(uninterrupted), "the last two steps must have done something"


def halves(**extra: Any) -> dict[str, Any]:
    """A tensor of 4,096 numbers, half of it on each of two ranks, and whatever else."""
    part = ShardedTensor.from_rank_offsets("a", torch.ones(2048), (0, dist.get_rank(), 2))
    return {"weights": {"a": part}, "lr": 1e-3, **extra}


@contextmanager
def small_disk(size: int | None) -> Iterator[None]:
    """This process cannot write a file beyond `size` bytes; None is no limit."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits[0] if size is None else size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def twice() -> dict[str, Any]:
    """Both ranks claim the whole tensor."""
    return {"weights": {"a": ShardedTensor.from_rank_offsets("a", torch.ones(4))}}


# On which rank, the state of that rank, the bytes it can write to a file, more for the manifest, the message.
FAILURES: dict[str, tuple[int, Callable[[], dict[str, Any]], int | None, dict[str, Any], str]] = {
    "an object of a class": (
        1,
        lambda: halves(rng=ShardedObject("rng", Opaque(), (1,), (0,))),
        None,
        {},
        "plain tensors, numbers, strings",
    ),
    "a common value of a class": (1, lambda: halves(extra=Opaque()), None, {}, "plain tensors, numbers"),
    "what cannot be pickled": (0, lambda: halves(extra=lambda: None), None, {}, "pickle"),
    "a part that two ranks claim": (0, twice, None, {}, "Invalid access pattern"),
    "the disk is full: common.pt": (0, lambda: halves(text="x" * 9999), 8192, {}, "File too large"),
    "the disk is full: first shard": (0, halves, 8192, {}, "File too large"),
    "the disk is full: second shard": (1, halves, 8192, {}, "rank 1: .*File too large"),
    "the disk is full: manifest": (0, halves, 20_000, {"note": "x" * 30_000}, "File too large"),
}


def failing_saves(root: Path) -> None:
    """Every rank hears of it at once, and the former checkpoint stays whole and the latest."""
    save_distributed(root / "1", halves(), META)
    for case, (rank, state, limit, more, message) in FAILURES.items():
        is_there = dist.get_rank() == rank
        started = time.monotonic()
        with (
            small_disk(limit if is_there else None),
            pytest.raises(CheckpointError, match=message),
        ):
            save_distributed(
                root / "2",
                state() if is_there or state is twice else halves(),
                {**META, "global_step": 2, **more},
            )
        assert time.monotonic() - started < 30, case
        assert not (root / "2").exists(), case
        assert latest_checkpoint(root) == root / "1", case
        dist.barrier()
    verify(root / "1")
    save_distributed(root / "2", halves(), {**META, "global_step": 2})
    assert latest_checkpoint(root) == root / "2", "the next save succeeds"


def failing_loads(folder: Path) -> None:
    """What one rank cannot read, no rank goes on with."""
    save_distributed(folder, halves(), META)
    rank = dist.get_rank()
    extra = {"b": ShardedTensor.from_rank_offsets("b", torch.ones(2))} if rank == 1 else {}
    with pytest.raises(CheckpointError, match="'b'"):
        load_distributed(folder, halves(**extra))
    with pytest.raises(CheckpointError, match=r"rank 1: .*\[4096\].*\(6,\)"):
        wrong = {"a": ShardedTensor.from_rank_offsets("a", torch.ones(6))}
        load_distributed(folder, wrong if rank == 1 else {})
    dist.barrier()
    if rank == 0:
        content = bytearray((folder / "__1_0.distcp").read_bytes())
        content[len(content) // 2] ^= 1
        (folder / "__1_0.distcp").write_bytes(content)
    dist.barrier()
    with pytest.raises(CheckpointError, match="sha256"):
        load_distributed(folder, halves())


@pytest.mark.parametrize("work", [failing_saves, failing_loads])
def test_every_rank_fails_together(work: Any, tmp_path: Path) -> None:
    run_ranks(tmp_path, work, tmp_path / "checkpoint", world=2)


def save_in_a_group(target: Path) -> None:
    """Barriers and hashes go through the group that is passed in."""
    group = dist.new_group([0, 1])
    state = {"a": ShardedTensor.from_rank_offsets("a", torch.ones(2), (0, dist.get_rank(), 2))}
    save_distributed(target, state, META, group=group)
    loaded = load_distributed(target, state, group=group, check_contents=False)
    assert torch.equal(loaded["a"], torch.ones(2))


def test_a_group_of_our_own(tmp_path: Path) -> None:
    run_ranks(tmp_path, save_in_a_group, tmp_path / "checkpoint", world=2)
    assert set(verify(tmp_path / "checkpoint")["files"]) == {
        ".metadata",
        "__0_0.distcp",
        "__1_0.distcp",
        "common.pt",
        "metadata.json",
    }
