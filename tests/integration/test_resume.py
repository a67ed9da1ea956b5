"""Runs that are cut off and started again, on the same ranks or on others."""

from __future__ import annotations

import signal

import numpy as np
import pytest

from nemo_pi.cli.ends import USER_ERROR
from nemo_pi.nemo.run import STOPPED
from tests.integration.launch import Fault
from tests.integration.rows import BF16, CP2, PLAIN_OPTIMIZER, PP2, SP, TP2, VPP2, Tolerance
from tests.integration.test_parity import assert_same_training
from tests.integration.world import Run, World

SIX_STEPS = (
    "trainer.max_steps=6",
    "trainer.val_check_interval=3",
    "exp_manager.checkpoint_callback_params.every_n_train_steps=2",
    "exp_manager.checkpoint_callback_params.save_top_k=-1",
)


def assert_bit_identical(run: Run, uninterrupted: Run, *, validated: bool = True) -> None:
    """The same losses at every step of both, and the same weights, to the last bit.

    Without `validated` the last validation may be missing: the last step is saved before it, and a run that
    is killed between them has no step left to make when it is started again.
    """
    curves, wanted = run.curves(), uninterrupted.curves()
    for name in ("reduced_train_loss", "grad_norm", "lr", "consumed_samples", "val_loss"):
        assert max(curves[name]) == max(wanted[name]) or (name == "val_loss" and not validated), name
        assert curves[name].items() <= wanted[name].items(), name
    weights, wanted_weights = run.weights(), uninterrupted.weights()
    assert weights.keys() == wanted_weights.keys()
    assert all(np.array_equal(weights[name], wanted_weights[name]) for name in weights)


# name, ranks, layout, how the first start ends, checkpoints it leaves
KILLED = (
    ("all-ranks", 2, (), ("signal_at_step", 4, signal.SIGKILL, False), [2]),
    ("one-rank-of-two", 2, TP2 + SP, ("signal_at_step", 4, signal.SIGKILL, True), [2]),
    ("split-sequences", 2, CP2, ("signal_at_step", 4, signal.SIGKILL, True), [2]),
    ("plain-optimizer", 2, PLAIN_OPTIMIZER, ("signal_at_step", 4, signal.SIGKILL, False), [2]),
    ("bf16", 2, BF16, ("signal_at_step", 4, signal.SIGKILL, False), [2]),
    ("pose", 2, ("pose=paper",), ("signal_at_step", 4, signal.SIGKILL, False), [2]),
    ("while-saving", 1, (), ("kill_while_saving", 2), [2]),
    ("before-the-first-checkpoint", 1, (), ("signal_at_step", 2, signal.SIGKILL, False), []),
)


@pytest.mark.parametrize(
    ("name", "ranks", "layout", "end", "saved"), KILLED, ids=[case[0] for case in KILLED]
)
def test_a_killed_run_ends_as_an_uninterrupted_one(
    world: World,
    name: str,
    ranks: int,
    layout: tuple[str, ...],
    end: Fault,
    saved: list[int],
) -> None:
    uninterrupted = world.reference(*SIX_STEPS, *layout, ranks=ranks)
    killed = world.run(f"killed-{name}", *SIX_STEPS, *layout, ranks=ranks, fault=end)
    # A rank may die of another's death before its own signal.
    assert all(killed.finished.statuses) and -signal.SIGKILL in killed.finished.statuses
    assert killed.checkpoints == saved
    assert not killed.exported.exists()
    resumed = world.run(f"killed-{name}", *SIX_STEPS, *layout, ranks=ranks)
    resumed.finished.check()
    assert_bit_identical(resumed, uninterrupted)
    assert resumed.checkpoints == uninterrupted.checkpoints == [2, 4, 6]


TOLD_TO_STOP = (
    ("sigterm-one-of-two-ranks", 2, signal.SIGTERM, True),
    ("sigterm", 1, signal.SIGTERM, False),
    ("sigusr1-all", 2, signal.SIGUSR1, False),
    ("sigint", 1, signal.SIGINT, False),
    ("sighup-all", 2, signal.SIGHUP, False),
)


@pytest.mark.parametrize(
    ("name", "ranks", "number", "last_only"), TOLD_TO_STOP, ids=[case[0] for case in TOLD_TO_STOP]
)
def test_a_run_told_to_stop_saves_first(
    world: World, name: str, ranks: int, number: int, last_only: bool
) -> None:
    uninterrupted = world.reference(*SIX_STEPS, ranks=ranks)
    end = ("signal_at_step", 3, number, last_only)
    stopped = world.run(f"stopped-{name}", *SIX_STEPS, ranks=ranks, fault=end)
    assert stopped.finished.statuses == (STOPPED,) * ranks
    assert stopped.checkpoints == [2, 3]
    assert not stopped.exported.exists(), "half-trained weights were exported"
    assert "step 3" in stopped.finished.out
    resumed = world.run(f"stopped-{name}", *SIX_STEPS, ranks=ranks)
    resumed.finished.check()
    assert_bit_identical(resumed, uninterrupted)


def test_a_run_out_of_time_saves_first(world: World) -> None:
    """exp_manager.max_time_per_run, which clusters' job chains rely on."""
    limits = ("trainer.max_steps=500", "trainer.limit_val_batches=0")
    stopped = world.run("out-of-time", *limits, "exp_manager.max_time_per_run='00:00:00:03'", ranks=2)
    assert stopped.finished.statuses == (STOPPED, STOPPED)
    (step,) = stopped.checkpoints
    assert 0 < step < 500
    assert not stopped.exported.exists()
    resumed = world.run("out-of-time", f"trainer.max_steps={step + 1}", *limits[1:], ranks=2)
    resumed.finished.check()
    assert sorted(resumed.curves()["reduced_train_loss"]) == list(range(step + 1))


def test_a_finished_run_started_again_writes_the_export_it_lacks(world: World) -> None:
    finished = world.run("finished", "model.export.hf_path=null")
    finished.finished.check()
    assert not finished.exported.exists()
    again = world.run("finished")
    again.finished.check()
    assert again.checkpoints == [3]
    assert_bit_identical(again, world.reference())


def test_the_two_kinds_of_optimizer_do_not_read_each_other(world: World) -> None:
    world.run("kinds", "model.export.hf_path=null").finished.check()
    flipped = world.run("kinds", "trainer.max_steps=4", *PLAIN_OPTIMIZER)
    assert flipped.finished.statuses == (USER_ERROR,)
    assert "required model.use_distributed_optimizer=true" in flipped.finished.err
    assert "Traceback" not in flipped.finished.err


MOVES = (
    ("tp2-pp2-to-dp2", "untied", TP2 + PP2, 4, (), 2),
    ("dp2-to-tp2-pp2", "untied", (), 2, TP2 + PP2, 4),
    ("tp2-cp2-to-dp2", "untied", TP2 + CP2, 4, (), 2),
    ("tp2-sp-to-pp2-vpp2", "tied", TP2 + SP, 2, PP2 + VPP2, 2),
    # Rows that padded the vocabulary on two ranks are nowhere on one, and appear where they were not.
    ("odd-tp2-to-pp2", "odd_tied", TP2 + SP, 2, PP2, 2),
    ("odd-dp2-to-tp2", "odd", PLAIN_OPTIMIZER, 2, TP2 + PLAIN_OPTIMIZER, 2),
)


@pytest.mark.parametrize(
    ("name", "model", "first", "first_ranks", "second", "second_ranks"),
    MOVES,
    ids=[case[0] for case in MOVES],
)
def test_a_run_goes_on_at_another_layout(
    world: World,
    name: str,
    model: str,
    first: tuple[str, ...],
    first_ranks: int,
    second: tuple[str, ...],
    second_ranks: int,
) -> None:
    reference = world.reference(*SIX_STEPS, model=model)
    three_steps = (*SIX_STEPS, "trainer.max_steps=3", "model.export.hf_path=null")
    world.run(name, *three_steps, *first, ranks=first_ranks, model=model).finished.check()
    moved = world.run(name, *SIX_STEPS, *second, ranks=second_ranks, model=model)
    moved.finished.check()
    assert_same_training(moved, reference, world.models[model], Tolerance())
