"""What the entry point says and leaves behind where it does not train."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from nemo_pi.cli.ends import USER_ERROR
from tests.integration.launch import Finished, launch
from tests.integration.rows import CP2, PP2, SP, TP2, VPP2
from tests.integration.world import World


@dataclass(frozen=True)
class Mistake:
    """A command line that cannot work."""

    name: str
    overrides: tuple[str, ...]
    says: tuple[str, ...]
    """What the message must contain."""
    ranks: int = 1


MISTAKES = (
    # --- layout ---
    Mistake("world-too-small", TP2, ("world size 1", "tensor_model_parallel_size", "launch 2 ranks")),
    Mistake("world-not-a-multiple", ("model.context_parallel_size=3",), ("world size 2", "1 × 1 × 3 = 3"), 2),
    Mistake("tp-and-groups", ("model.tensor_model_parallel_size=4",), ("num_query_groups=2", "given 4")),
    Mistake("pp-and-layers", ("model.pipeline_model_parallel_size=3",), ("num_layers=4", "1, 2, 4")),
    Mistake("vpp-without-pp", VPP2, ("virtual_pipeline_model_parallel_size", "pipeline")),
    Mistake("vpp-and-micro-batches", (*PP2, *VPP2, "model.global_batch_size=1"), ("global_batch_size",), 2),
    Mistake("sp-without-tp", SP, ("model.sequence_parallel", "model.tensor_model_parallel_size")),
    Mistake("sp-and-length", (*TP2, *SP, "model.encoder_seq_length=255"), ("encoder_seq_length", "254"), 2),
    Mistake("global-batch", ("model.global_batch_size=3",), ("global_batch_size", "1 × 2 = 2", "given 3"), 2),
    Mistake("cp-and-length", (*CP2, "model.encoder_seq_length=254"), ("encoder_seq_length", "252"), 2),
    Mistake("ring-on-a-cpu", (*CP2, "model.cp_comm_type=p2p"), ("model.cp_comm_type", "all_gather"), 2),
    # --- windows ---
    Mistake(
        "factor-and-windows", ("model.pos_scaling_factor=3.0",), ("pos_scaling_factor", "64", "256", "3")
    ),
    Mistake("factor-below-1", ("model.pos_scaling_factor=0.25",), ("pos_scaling_factor", "0.25", "4")),
    Mistake("factor-nan", ("model.pos_scaling_factor=nan",), ("pos_scaling_factor", "nan")),
    Mistake("factor-text", ("model.pos_scaling_factor='4x'",), ("pos_scaling_factor", "'4x'")),
    Mistake("method", ("model.pos_scaling_type=yarm",), ("pos_scaling_type", "yarm", "yarn")),
    # --- keys ---
    Mistake(
        "unknown-key", ("+model.max_position_embedings=9",), ("did you mean model.max_position_embeddings",)
    ),
    Mistake("unknown-trainer-key", ("+trainer.max_step=9",), ("trainer.max_steps",)),
    Mistake(
        "callback", ("+hydra.callbacks.x={{_target_: pathlib.Path.touch, self: ran}}",), ("hydra.callbacks",)
    ),
    Mistake("target", ("+model.optim._target_=os.system",), ("_target_",)),
    # --- kernels ---
    Mistake("kernel", ("model.rotary_kernel=triton",), ("rotary_kernel", "triton")),
    Mistake("engine", ("model.transformer_engine=true",), ("transformer_engine",)),
    # --- files ---
    Mistake("no-checkpoint", ("restore_from_path=/nowhere/llama",), ("/nowhere/llama",)),
    Mistake("not-rope", ("restore_from_path={gpt2}",), ("rotary", "gpt2")),
    Mistake("no-data", ("model.data.data_prefix=[/nowhere/tokens]",), ("/nowhere/tokens",), 2),
    Mistake("truncated-data", ("model.data.data_prefix=[{truncated}]",), ("{truncated}", "bytes"), 2),
    Mistake("foreign-tokens", ("model.data.data_prefix=[{foreign}]",), ("{foreign}", "2047", "2048"), 2),
    Mistake("occupied-export", ("model.export.hf_path={occupied}",), ("{occupied}", "precious.txt")),
)


@pytest.fixture(scope="module")
def files(world: World) -> dict[str, str]:
    """Files that a run must refuse, by the names used above."""
    folder = world.folder / "bad"
    gpt2, occupied = folder / "gpt2", folder / "occupied"
    for made in (gpt2, occupied):
        made.mkdir(parents=True)
    (gpt2 / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_positions": 64, "n_embd": 64}))
    (occupied / "precious.txt").write_text("mine")
    for name in ("truncated", "foreign"):
        for suffix in (".bin", ".idx"):
            shutil.copy(f"{world.data_prefix}{suffix}", folder / f"{name}{suffix}")
    truncated, foreign = folder / "truncated.bin", folder / "foreign.bin"
    truncated.write_bytes(truncated.read_bytes()[:-2])
    tokens = bytearray(foreign.read_bytes())
    tokens[200:202] = (2048).to_bytes(2, "little")  # one id, the first behind the vocabulary
    foreign.write_bytes(bytes(tokens))
    return {
        "gpt2": str(gpt2),
        "occupied": str(occupied),
        "truncated": str(folder / "truncated"),
        "foreign": str(folder / "foreign"),
    }


@pytest.mark.parametrize("mistake", MISTAKES, ids=[mistake.name for mistake in MISTAKES])
def test_a_mistake_is_one_message_and_leaves_nothing(
    world: World, files: dict[str, str], mistake: Mistake
) -> None:
    overrides = [override.format(**files) for override in mistake.overrides]
    run = world.run(f"mistake-{mistake.name}", *overrides, ranks=mistake.ranks)
    assert set(run.finished.statuses) == {USER_ERROR}, run.finished.err[-3000:]
    assert "Traceback" not in run.finished.err
    assert "required" in run.finished.err and "To fix" in run.finished.err
    for words in mistake.says:
        assert words.format(**files) in run.finished.err
    assert list(run.folder.iterdir()) == []


def test_a_key_that_hydra_refuses_has_no_traceback(world: World) -> None:
    run = world.run("mistake-hydra", "model.max_position_embedings=9")
    assert run.finished.statuses != (0,)
    assert "max_position_embedings" in run.finished.err and "Traceback" not in run.finished.err
    assert list(run.folder.iterdir()) == []


def test_a_dry_run_prints_the_plan_and_stops(world: World) -> None:
    run = world.run("dry", "dry_run=true", *TP2, ranks=2)
    run.finished.check()
    for words in ("64", "256", "linear", "TP 2 · PP 1 · CP 1 · DP 1 (2 ranks)", str(world.models["untied"])):
        assert words in run.finished.out
    assert run.finished.out.count("TP 2 · PP 1") == 1, "the plan is printed by every rank"
    assert list(run.folder.iterdir()) == []


def test_cfg_job_prints_the_composed_yaml(world: World) -> None:
    printed = _script(["--cfg", "job", "model=llama-7b", "model.micro_batch_size=3"], world.folder / "cfg")
    printed.check()
    for words in ("max_position_embeddings: 32768", "pos_scaling_factor: 16.0", "micro_batch_size: 3"):
        assert words in printed.out
    assert list((world.folder / "cfg").iterdir()) == []


def _script(arguments: list[str], folder: Path) -> Finished:
    return launch(arguments, folder=folder)
