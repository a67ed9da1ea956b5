"""Stages in one launch: as the launches they stand for, cut off anywhere, at layouts of their own."""

from __future__ import annotations

import re
import signal

import numpy as np
import pytest
from transformers import AutoConfig

from nemo_pi.nemo.run import STOPPED
from tests.integration.launch import Fault
from tests.integration.rows import Tolerance
from tests.integration.test_parity import assert_same_training
from tests.integration.test_resume import assert_bit_identical
from tests.integration.world import World

SAVING = (
    "exp_manager.checkpoint_callback_params.every_n_train_steps=2",
    "exp_manager.checkpoint_callback_params.save_top_k=-1",
    "trainer.val_check_interval=2",
)
SKIPPING = "max_steps: 3, max_position_embeddings: 128, pose: paper, global_batch_size: 8"
WHOLE = "max_steps: 3, optim.lr: 5e-4, optim: {sched: {warmup_steps: 0}}"
# 64 → 128 tokens by samples of 64, then 64 → 256 by whole ones: the factor counts from 64 in both.
TWO = (*SAVING, f"stages=[{{{SKIPPING}, export.hf_path: first}}, {{{WHOLE}}}]")


def test_stages_alike_are_one_training(world: World) -> None:
    """Adam's state, the order of samples and the count of steps go on as if there were no stages."""
    alike = (*SAVING, "model.optim.sched.warmup_steps=0")
    plain = world.reference(*alike, "trainer.max_steps=6")
    staged = world.run("alike", *alike, "stages=[{max_steps: 3}, {max_steps: 3}]")
    staged.finished.check()
    assert sorted(staged.curves()["reduced_train_loss"]) == list(range(6))
    assert_bit_identical(staged, plain)
    assert staged.checkpoints == [2, 3, 4, 6]
    assert "Stage 2 of 2: steps 4 to 6" in staged.finished.out + staged.finished.err
    assert set(staged.curves()["stage"].values()) == {1.0, 2.0}


# name, how the first start ends, its status, checkpoints it leaves
CUT_OFF: tuple[tuple[str, Fault, int, list[int]], ...] = (
    ("killed-in-the-second", ("signal_at_step", 5, signal.SIGKILL, False), -signal.SIGKILL, [2, 3, 4]),
    ("told-to-stop-in-the-first", ("signal_at_step", 1, signal.SIGTERM, False), STOPPED, [1]),
    ("told-to-stop-between", ("signal_at_step", 3, signal.SIGTERM, False), STOPPED, [2, 3]),
)


@pytest.mark.parametrize(("name", "end", "status", "saved"), CUT_OFF, ids=[case[0] for case in CUT_OFF])
def test_a_run_cut_off_in_any_stage_goes_on_there(
    world: World, name: str, end: Fault, status: int, saved: list[int]
) -> None:
    uninterrupted = world.reference(*TWO)
    cut = world.run(name, *TWO, fault=end)
    assert cut.finished.statuses == (status,)
    assert cut.checkpoints == saved
    assert not cut.exported.exists()
    resumed = world.run(name, *TWO)
    resumed.finished.check()
    assert_bit_identical(resumed, uninterrupted)
    for run in (resumed, uninterrupted):
        factors = [
            AutoConfig.from_pretrained(folder).rope_parameters["factor"]
            for folder in (run.folder / "first", run.exported)
        ]
        assert factors == [2.0, 4.0], "each factor counts from the original window"


def test_stages_that_begin_anew_are_launches_one_after_the_other(world: World) -> None:
    """The second from the first one's exported folder, with its own Adam, from the first sample on."""
    launches = [re.sub(r"max_steps: 3,? ?", "", stage) for stage in (SKIPPING, WHOLE)]
    assert launches[0] == "max_position_embeddings: 128, pose: paper, global_batch_size: 8"
    first = world.run(
        "by-hand-1",
        "model.max_position_embeddings=128",
        "model.pos_scaling_factor=null",
        "pose=paper",
        "model.global_batch_size=8",
    )
    first.finished.check()
    second = world.run(
        "by-hand-2",
        f"restore_from_path={first.exported}",
        "model.allow_rescaling=true",
        "model.optim.lr=5.0e-4",
        "model.optim.sched.warmup_steps=0",
    )
    second.finished.check()
    anew = "reset_optimizer: true, reset_data: true"
    staged = world.run("by-stages", f"stages=[{{{SKIPPING}}}, {{{WHOLE}, {anew}}}]")
    staged.finished.check()
    losses = staged.curves()["reduced_train_loss"]
    assert [losses[step] for step in range(3)] == [*first.curves()["reduced_train_loss"].values()]
    assert [losses[step] for step in range(3, 6)] == [*second.curves()["reduced_train_loss"].values()]
    weights, wanted = staged.weights(), second.weights()
    assert all(np.array_equal(weights[name], wanted[name]) for name in wanted)


LAYOUTS = (("dp2-then-cp2", "context_parallel_size: 2", "warm"), ("stages-by-lightning", "", "lightning"))


@pytest.mark.parametrize(("name", "second", "launcher"), LAYOUTS, ids=[case[0] for case in LAYOUTS])
def test_a_stage_may_be_laid_out_otherwise(world: World, name: str, second: str, launcher: str) -> None:
    reference = world.reference(*TWO)
    staged = world.run(
        name,
        *SAVING,
        "trainer.devices=2",
        f"stages=[{{{SKIPPING}}}, {{{WHOLE}, {second or 'micro_batch_size: 2'}}}]",
        ranks=2,
        launcher=launcher,
    )
    staged.finished.check()
    assert_same_training(staged, reference, world.models["untied"], Tolerance())


def test_a_stage_whose_beginning_is_damaged_waits_for_the_one_before(world: World) -> None:
    """The end of the first is not whole: it goes on from its middle, and the second behind it."""
    uninterrupted = world.reference(*TWO)
    world.run("damaged", *TWO, fault=("signal_at_step", 3, signal.SIGTERM, False))
    folder = world.folder / "damaged" / "results" / "run" / "checkpoints" / "step_00000003"
    largest = max(folder.glob("*.distcp"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    resumed = world.run("damaged", *TWO)
    resumed.finished.check()
    assert_bit_identical(resumed, uninterrupted)
    said = resumed.finished.out + resumed.finished.err
    assert (
        said.index("Stage 2 of 2: steps 4")
        < said.index("Stage 1 of 2: steps 3")
        < said.rindex("Stage 2 of 2")
    )
