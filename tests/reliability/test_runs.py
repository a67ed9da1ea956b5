"""Runs that something happens to: what is said, what is left, and how the next start goes on."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nemo_pi.checkpoint.integrity import verify
from nemo_pi.checkpoint.lock import lock_inside
from nemo_pi.checkpoint.lock_file import Holder, holder_of
from nemo_pi.cli.ends import USER_ERROR
from nemo_pi.nemo.run import STOPPED
from nemo_pi.parallel.liveness import HUNG
from nemo_pi.processes import start_of
from tests.integration.launch import EXTEND, Finished
from tests.integration.test_resume import SIX_STEPS, assert_bit_identical
from tests.integration.world import Run, World
from tests.ports import free_port
from tests.reliability.figures import record

LONG = (
    "trainer.max_steps=4000",
    "trainer.limit_val_batches=0",
    "exp_manager.checkpoint_callback_params.every_n_train_steps=1",
    "exp_manager.checkpoint_callback_params.save_top_k=2",
    "model.export.hf_path=null",
)


def root_of(world: World, name: str) -> Path:
    return world.folder / name / "results" / "run" / "checkpoints"


def wait_for_holder(root: Path) -> Holder:
    """Who holds a run's checkpoints, as soon as it has saved one."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        holder = holder_of(lock_inside(root))
        if holder is not None and holder.writer.lives() and list(root.glob("step_*")):
            return holder
        time.sleep(0.1)
    raise AssertionError("the run does not begin")


@contextmanager
def in_background(world: World, name: str, *overrides: str) -> Iterator[list[Run]]:
    """A run that goes on while the test does something; it has ended behind the `with` block."""
    runs: list[Run] = []
    thread = threading.Thread(target=lambda: runs.append(world.run(name, *overrides)))
    thread.start()
    try:
        yield runs
    finally:
        thread.join()


def refused(finished: Finished, *parts: str) -> None:
    """One message and status 2 on the first rank."""
    assert finished.statuses[0] == USER_ERROR, finished.err[-2000:]
    assert "Traceback" not in finished.err
    for part in parts:
        assert part in finished.err, finished.err[-2000:]


def said(run: Run) -> str:
    """What its ranks printed; warnings go to standard output."""
    return run.finished.out + run.finished.err


def flip(path: Path, at: float = 0.5) -> None:
    """Changes one bit."""
    content = bytearray(path.read_bytes())
    content[min(len(content) - 1, int(len(content) * at))] ^= 1
    path.write_bytes(content)


# ---- two at once, and orphans ----------------------------------------------------------------------------


def second_starts(world: World, name: str, count: int) -> None:
    """Starts that come while the first run trains and saves are refused; it does not notice."""
    root = root_of(world, name)
    with in_background(world, name, *LONG) as first:
        holder = wait_for_holder(root)
        for _ in range(count):
            second = world.run(name, *LONG)
            refused(second.finished, f"process {holder.writer.pid}", "one writer at a time")
        os.kill(holder.writer.pid, signal.SIGTERM)
    assert first[0].finished.statuses == (STOPPED,)
    for path in root.glob("step_*"):
        verify(path)
    assert not list(root.glob(".*")), "no leftovers"


def test_a_second_start_is_refused_and_harms_nothing(world: World) -> None:
    second_starts(world, "pair", 1)


@pytest.mark.attack
def test_many_second_starts(world: World) -> None:
    second_starts(world, "pairs", 12)
    record("second start of a run that trains and saves", 12, 12, "refused by name, nothing harmed")


def test_two_runs_never_write_one_export(world: World) -> None:
    exported = world.folder / "shared-export"
    overrides = (*LONG[:-1], f"model.export.hf_path={exported}")
    with in_background(world, "exporter", *overrides):
        holder = wait_for_holder(root_of(world, "exporter"))
        second = world.run("exporter-2", *overrides)
        refused(second.finished, str(exported), "another folder, model.export.hf_path")
        os.kill(holder.writer.pid, signal.SIGTERM)


@pytest.mark.attack
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGUSR1])
def test_a_run_ends_when_torchrun_is_gone(number: signal.Signals, world: World) -> None:
    name, root = f"orphans-{number.name}", root_of(world, f"orphans-{number.name}")
    (world.folder / name).mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    torchrun = subprocess.Popen(
        [*command, f"--master-port={free_port()}", str(EXTEND), *world.arguments(*LONG)],
        cwd=world.folder / name,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    holder = wait_for_holder(root)
    torchrun.send_signal(number)
    torchrun.wait()
    began = time.monotonic()
    while holder.writer.lives() and time.monotonic() - began < 60:
        time.sleep(0.1)
    seconds = time.monotonic() - began
    assert start_of(holder.writer.pid) is None
    assert not lock_inside(root).exists(), "it has ended by itself, and saved"
    for path in root.glob("step_*"):
        verify(path)
    record(f"torchrun ended by {number.name}: its ranks save and end", 1, 1, f"{seconds:.1f} s")


# ---- a rank that hangs -----------------------------------------------------------------------------------


def test_the_others_name_the_rank_that_hangs(world: World) -> None:
    """Of three, the one in the middle: a ring's neighbours would name another."""
    hung = world.run(
        "hung",
        *LONG,
        "model.global_batch_size=3",
        "model.distributed_timeout_minutes=0.1",
        ranks=3,
        fault=("hang_at_step", 3, 1, 30.0),
    )
    assert hung.finished.statuses[0] == hung.finished.statuses[2] == HUNG
    for rank in (0, 2):
        assert f"rank {rank} waits for rank 1 (at " in hung.finished.err, hung.finished.err[-3000:]
    assert "(_optimizer_step)" in hung.finished.err, "where it is"
    record("a rank that hangs, with a limit of 6 s", 1, 1, "named by the others, which end")


# ---- going on --------------------------------------------------------------------------------------------


def damaged_runs(world: World, name: str, count: int | None) -> int:
    """A run whose newest checkpoint is damaged goes on from the one before, bit for bit."""
    uninterrupted = world.reference(*SIX_STEPS)
    four = (*SIX_STEPS, "trainer.max_steps=4", "model.export.hf_path=null")
    world.run(f"{name}-files", *four).finished.check()
    files = sorted(
        path.relative_to(root_of(world, f"{name}-files") / "step_00000004")
        for path in (root_of(world, f"{name}-files") / "step_00000004").rglob("*")
        if path.is_file() and path.suffix in ("", ".distcp", ".pt")
    )
    chosen = files if count is None else random.Random(5).sample(files, count)
    for number, file in enumerate(chosen):
        run = f"{name}-{number}"
        world.run(run, *four).finished.check()
        flip(root_of(world, run) / "step_00000004" / file, random.Random(number).random())
        again = world.run(run, *SIX_STEPS)
        again.finished.check()
        assert str(file) in said(again) and re.search("Passing over|Skipping", said(again))
        assert_bit_identical(again, uninterrupted)
        assert again.checkpoints == [2, 4, 6]
        verify(root_of(world, run) / "step_00000004")
    return len(chosen)


def test_a_flipped_bit_costs_one_checkpoint(world: World) -> None:
    damaged_runs(world, "flip", 1)


@pytest.mark.attack
def test_a_flipped_bit_in_each_file(world: World) -> None:
    flips = damaged_runs(world, "flips", None)
    record("one flipped bit in a file of the newest checkpoint: same bits from the one before", flips, flips)


def _without_bytes(manifest: Path) -> None:
    values = json.loads(manifest.read_text())
    del values["files"][".metadata"]["bytes"]
    manifest.write_text(json.dumps(values))


MANIFESTS = {
    "missing": lambda manifest: manifest.unlink(),
    "an entry without bytes": _without_bytes,
    "cut off": lambda manifest: os.truncate(manifest, 100),
    "empty": lambda manifest: os.truncate(manifest, 0),
}


def test_a_damaged_manifest_costs_one_checkpoint(world: World) -> None:
    for number, (what, damage) in enumerate(MANIFESTS.items()):
        run = f"manifest-{number}"
        world.run(run, *SIX_STEPS, "trainer.max_steps=4", "model.export.hf_path=null").finished.check()
        damage(root_of(world, run) / "step_00000004" / "nemo_pi.json")
        again = world.run(run, *SIX_STEPS)
        again.finished.check()
        assert "step_00000004" in said(again), what
        assert again.checkpoints == [2, 4, 6]
        assert_bit_identical(again, world.reference(*SIX_STEPS))
    record("a manifest that is missing, cut off, empty or without sizes", len(MANIFESTS), len(MANIFESTS))


def test_with_nothing_whole_a_run_does_not_begin_anew(world: World) -> None:
    short = (*SIX_STEPS, "trainer.max_steps=2", "model.optim.sched.warmup_steps=1")
    world.run("all-damaged", *short).finished.check()
    flip(root_of(world, "all-damaged") / "step_00000002" / "__0_0.distcp")
    again = world.run("all-damaged", *SIX_STEPS, "trainer.max_steps=3")
    refused(again.finished, "damaged ones only (step_00000002)", "rm -r")
    assert again.checkpoints == [2]


def test_what_lies_under_a_steps_name_makes_room(world: World) -> None:
    foreign = root_of(world, "foreign") / "step_00000004"
    foreign.mkdir(parents=True)
    (foreign / "thesis.txt").write_text("mine")
    run = world.run("foreign", *SIX_STEPS, "exp_manager.resume_if_exists=false")
    run.finished.check()
    verify(foreign)
    assert (foreign.with_name("step_00000004.aside-1") / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("fault", "what"),
    [(("ruin_weights_at_step", 4, 5), "word_embeddings"), (("ruin_moments_at_step", 4), "exp_avg_sq")],
)
def test_what_is_no_number_is_not_saved(fault: tuple, what: str, world: World) -> None:
    """In a row that no sample reads the loss stays finite; the save notices, and the next start goes on."""
    name = f"nan-{fault[0]}"
    ruined = world.run(name, *SIX_STEPS, fault=fault)
    refused(ruined.finished, what, "are not; nothing was written")
    assert ruined.checkpoints == [2]
    again = world.run(name, *SIX_STEPS)
    again.finished.check()
    assert_bit_identical(again, world.reference(*SIX_STEPS))


def test_a_gradient_that_is_no_number_ends_the_run_before_the_update(world: World) -> None:
    ended = world.run("bad-step", *SIX_STEPS, fault=("lose_gradients_at_steps", 3))
    refused(ended.finished, "step 3: required a finite gradient norm", "model.skip_bad_steps=10")
    again = world.run("bad-step", *SIX_STEPS)
    again.finished.check()
    assert_bit_identical(again, world.reference(*SIX_STEPS))


def test_bad_steps_are_left_out_and_counted(world: World) -> None:
    allowed = (*SIX_STEPS, "model.skip_bad_steps=2")
    run = world.run("skipping", *allowed, fault=("lose_gradients_at_steps", 3, 5), ranks=2)
    run.finished.check()
    assert "step 3 is left out" in said(run) and "step 5 is left out" in said(run)
    curves = run.curves()
    assert [curves["skipped_steps"][step] for step in sorted(curves["skipped_steps"])] == [0, 0, 1, 1, 2, 2]
    assert run.weights() and run.checkpoints == [2, 4, 6]
    more = world.run("skipping-more", *allowed, fault=("lose_gradients_at_steps", 2, 3, 5), ranks=2)
    refused(more.finished, "step 5", "2 steps were left out before")


def test_data_that_is_truncated_is_named(world: World) -> None:
    prefix = world.folder / "own-text"
    for ending in (".bin", ".idx"):
        prefix.with_suffix(ending).write_bytes(Path(f"{world.data_prefix}{ending}").read_bytes())
    ended = world.run(
        "truncated",
        *SIX_STEPS,
        f"model.data.data_prefix=[{prefix}]",
        fault=("truncate_at_step", 3, f"{prefix}.bin"),
    )
    refused(ended.finished, "own-text.bin", "given 16 bytes", "restore the file")
    assert ended.checkpoints == [2]


def test_a_signal_during_a_save_costs_no_further_step(world: World) -> None:
    stopped = world.run("while-saving", *SIX_STEPS, fault=("signal_while_saving", 2, signal.SIGTERM))
    assert stopped.finished.statuses == (STOPPED,)
    assert stopped.checkpoints == [2, 4]
    again = world.run("while-saving", *SIX_STEPS)
    again.finished.check()
    assert_bit_identical(again, world.reference(*SIX_STEPS))


def test_logs_that_cannot_be_written_end_no_run(world: World) -> None:
    run = world.run("full-logs", *SIX_STEPS, fault=("fail_logs_at_step", 3))
    run.finished.check()
    assert said(run).count("TensorBoardLogger cannot write") == 1
    assert run.checkpoints == [2, 4, 6]
