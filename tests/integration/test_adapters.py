"""Adapters trained on several ranks against one, and runs of them that go on at another layout."""

from __future__ import annotations

import shutil
import signal

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.cli.ends import USER_ERROR
from nemo_pi.nemo.run import STOPPED
from tests.integration.crossings import PACKING
from tests.integration.products import read_weights
from tests.integration.rows import BF16, CP2, DOCUMENTS, PP2, RECOMPUTE, SP, TP2, TRICKS, VPP2, Row, Tolerance
from tests.integration.test_parity import relative_error
from tests.integration.test_resume import SIX_STEPS, assert_bit_identical
from tests.integration.test_stages import SAVING
from tests.integration.world import Run, World

_LORA = "adapter_dim: 4, alpha: 16, column_init_method: kaiming"
ADAPTERS = (f"model.peft={{lora_tuning: {{{_LORA}, target_modules: [all], variant: canonical}}}}",)
NEMO = (f"model.peft={{lora_tuning: {{{_LORA}, target_modules: [attention, mlp_fc1]}}}}",)
WITH_NORMS = (*NEMO, "model.peft.train_embeddings_and_norms=true")
SHIFTED = (*ADAPTERS, "model.attention_backend=shifted", "model.shifted_attention_group=32")
ROWS = (
    Row("tp2", "both matrices' gradients on split layers", TP2, 2, ADAPTERS),
    Row(
        "tp2-sp-recompute",
        "and where a replica sees parts of rows",
        TP2 + SP + RECOMPUTE,
        2,
        ADAPTERS,
    ),
    Row("pp2-vpp2", "first numbers go by the layer's number", PP2 + VPP2, 2, NEMO + ("pose=paper",)),
    Row("cp2", "parts of a sequence add up", CP2, 2, NEMO + DOCUMENTS),
    Row("tp2-packed", "whole documents in a row", TP2, 2, ADAPTERS + PACKING["packed"]),
    Row(
        "tp2-sp-pp2-tied",
        "norms, and a shared embedding",
        TP2 + SP + PP2,
        4,
        WITH_NORMS,
        "tied",
    ),
    Row("dp2-neox", "biases and fused heads", (), 2, ADAPTERS, "gpt_neox"),
    Row("tp2-tricks", "slices, spared attention and a file around frozen weights", TP2 + TRICKS, 2, ADAPTERS),
    Row("tp2-shifted", "which heads are shifted is counted over ranks", TP2, 2, SHIFTED),
)


def distance(run: Run, reference: Run) -> float:
    """Largest distance of a tensor of the adapters from the reference's, as a part of its size."""
    ours, theirs = (read_weights(one.folder / "adapters") for one in (run, reference))
    assert ours.keys() == theirs.keys()
    return max(
        float(np.linalg.norm(ours[name].astype(np.float64) - wanted) / np.linalg.norm(wanted))
        for name, wanted in theirs.items()
    )


PEFT = ("model.export.hf_path=null", "model.export.peft_path=adapters")


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_adapters_train_as_on_one_rank(world: World, row: Row) -> None:
    reference = world.reference(*row.both, *PEFT, model=row.model)
    overrides = (*row.both, *PEFT, *row.overrides)
    run = world.run(f"adapters-{row.name}", *overrides, ranks=row.ranks, model=row.model)
    run.finished.check()
    curves, wanted = run.curves(), reference.curves()
    tolerance = Tolerance()
    for name in ("reduced_train_loss", "val_loss"):
        assert relative_error(curves, wanted, name) <= tolerance.loss, name
    assert relative_error(curves, wanted, "grad_norm") <= 2e-5
    assert distance(run, reference) <= 1e-4


def test_a_killed_run_goes_on_at_another_layout(world: World) -> None:
    steps = (*SIX_STEPS, *WITH_NORMS, *PEFT)
    uninterrupted = world.reference(*steps, model="tied")
    end = ("signal_at_step", 4, signal.SIGKILL, False)
    killed = world.run("adapters-killed", *steps, *TP2, *SP, ranks=2, model="tied", fault=end)
    assert killed.checkpoints == [2]
    resumed = world.run("adapters-killed", *steps, *PP2, ranks=2, model="tied")
    resumed.finished.check()
    assert relative_error(resumed.curves(), uninterrupted.curves(), "reduced_train_loss") <= 1e-6
    assert distance(resumed, uninterrupted) <= 1e-4


# With whatever else a run of adapters may have a state of: copies in fp32, dropout, documents in rows.
STAGED = (
    *SAVING,
    *BF16,
    f"model.peft={{lora_tuning: {{{_LORA}, target_modules: [all], adapter_dropout: 0.2}}}}",
    "model.peft.train_embeddings_and_norms=true",
    "stages=[{max_steps: 3, max_position_embeddings: 128, pose: paper}, "
    "{max_steps: 3, optim.lr: 5e-3, data.pack_documents: true, reset_optimizer: true}]",
)


@pytest.mark.parametrize("step", [1, 5])
def test_stages_of_adapters_that_were_told_to_stop_go_on_as_if_they_were_not(world: World, step: int) -> None:
    uninterrupted = world.reference(*STAGED)
    name = f"adapters-stopped-{step}"
    stopped = world.run(name, *STAGED, fault=("signal_at_step", step, signal.SIGTERM, False))
    assert stopped.finished.statuses == (STOPPED,)
    assert stopped.checkpoints[-1] == step
    resumed = world.run(name, *STAGED)
    resumed.finished.check()
    assert_bit_identical(resumed, uninterrupted)


def test_a_run_does_not_go_on_beside_other_weights(world: World) -> None:
    settings = (*ADAPTERS, "model.export.hf_path=null")
    first = world.run("adapters-base", *settings)
    first.finished.check()
    checkpoint = first.logs / "checkpoints" / "step_00000003"
    size = sum(file.stat().st_size for file in checkpoint.rglob("*.distcp"))
    assert size < 0.5 * sum(file.stat().st_size for file in world.models["untied"].glob("*.safetensors"))
    record = read_summary(checkpoint).adapter
    assert record is not None and record.base_path == world.models["untied"].resolve()
    # Of the same sizes, with other weights.
    further = (*settings, "trainer.max_steps=4")
    other = world.run("adapters-base", *further, f"restore_from_path={_other(world)}")
    assert other.finished.statuses == (USER_ERROR,)
    assert "the base of" in other.finished.err
    without = world.run("adapters-base", "trainer.max_steps=4", "model.export.hf_path=null")
    assert without.finished.statuses == (USER_ERROR,) and "trains all weights" in without.finished.err


def _other(world: World) -> str:
    folder = world.folder / "other"
    shutil.copytree(world.models["untied"], folder)
    weights = {name: 2 * tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)
