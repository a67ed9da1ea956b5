"""What would stop a run later stops it before anything is written."""

from __future__ import annotations

import json
import random
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_pi.checkpoint.hf.target import MARKER
from nemo_pi.checkpoint.retention import remove_checkpoints
from nemo_pi.checkpoint.space import is_memory
from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.engine.state import save_engine
from nemo_pi.errors import BackendUnavailableError, CheckpointError, ConfigError, DataError
from nemo_pi.kernels import native
from nemo_pi.nemo.checkpointing import checkpoint_folder
from nemo_pi.nemo.folders import run_folders
from nemo_pi.nemo.preflight import (
    check_accelerator,
    check_activations_folder,
    check_before_training,
    check_folders,
    check_megatron_options,
    checkpoint_to_resume,
    stage_to_resume,
)
from nemo_pi.nemo.sample_settings import RECORD, sample_settings
from tests.unit.config.builders import changed
from tests.unit.engine.loops import engine_of
from tests.unit.model.models import SHAPE
from tests.unit.nemo.runs import resolved, write_tokens

pytestmark = pytest.mark.usefixtures("one_rank")


def test_options_that_megatron_refuses_are_named(inputs: Path, tmp_path: Path) -> None:
    run = resolved(inputs, tmp_path)
    check_megatron_options(run)
    with pytest.raises(ConfigError, match="fp8 mode") as caught:
        check_megatron_options(changed(run, megatron={"fp8_param": True}))
    assert caught.value.field == "fp8_param"


def test_a_sound_run_passes_and_leaves_nothing(inputs: Path, tmp_path: Path) -> None:
    check_before_training([resolved(inputs, tmp_path / "logs", model__export__hf_path=str(tmp_path / "hf"))])
    assert not any(tmp_path.iterdir())


def test_a_kernel_that_cannot_run(inputs: Path, tmp_path: Path) -> None:
    run = resolved(inputs, tmp_path, model__rotary_kernel="apex")
    with pytest.raises(BackendUnavailableError, match="rotary_kernel"):
        check_before_training([run])


def test_a_fused_rotation_where_none_can_run(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An explicit request never degrades, in NeMo's spelling either."""
    if torch.cuda.is_available():
        pytest.skip("a GPU has fused kernels")
    monkeypatch.setattr(native, "_load", lambda: "not compiled")
    run = resolved(inputs, tmp_path, model__apply_rope_fusion=True)
    with pytest.raises(BackendUnavailableError, match=r"apply_rope_fusion.*triton: it runs on cuda"):
        check_before_training([run])


def test_the_cpu_of_a_machine_with_a_gpu(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = resolved(inputs, tmp_path, trainer__accelerator="cpu")
    check_accelerator(replace(run, trainer={"accelerator": "auto"}))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES"):
        check_accelerator(replace(run, trainer={"accelerator": "cpu"}))


def test_positions_that_hugging_face_cannot_compute(inputs: Path, tmp_path: Path) -> None:
    run = resolved(inputs, tmp_path / "logs")
    run = changed(run, extension=replace(run.extension, rotary_percent=0.5))
    check_before_training([run])
    with pytest.raises(CheckpointError, match="rotary_percentage"):
        check_before_training([replace(run, export=replace(run.export, hf_path=str(tmp_path / "hf")))])


def test_an_export_folder_in_use(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("mine")
    run = resolved(inputs, tmp_path / "logs", model__export__hf_path=str(tmp_path))
    with pytest.raises(CheckpointError, match=r"diary\.txt"):
        check_before_training([run])


@pytest.mark.parametrize("name", ["exported", "exported/../exported", "link", "."])
def test_an_export_never_replaces_what_the_run_starts_from(name: str, inputs: Path, tmp_path: Path) -> None:
    """Also where the start is an earlier export of ours, which another one may replace."""
    start = tmp_path / "exported"
    shutil.copytree(inputs / "start", start)
    (start / MARKER).write_text(json.dumps({"files": [path.name for path in start.iterdir()]}))
    (tmp_path / "link").symlink_to(start)
    run = resolved(
        inputs,
        tmp_path / "logs",
        restore_from_path=str(start),
        model__export__hf_path=str(tmp_path / name),
    )
    with pytest.raises(CheckpointError, match="another folder than the checkpoint's own"):
        check_before_training([run])


def test_folders_that_cannot_be_written_to(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    blocked = str(tmp_path / "file" / "below")
    sound = resolved(inputs, tmp_path / "logs", model__export__hf_path=str(tmp_path / "new" / "hf"))
    check_folders(sound, run_folders(sound))
    for key in ("model__export__hf_path", "exp_manager__explicit_log_dir"):
        run = resolved(inputs, tmp_path / "logs", **{key: blocked + "/x"})
        with pytest.raises(CheckpointError, match="file is a file"):
            check_folders(run, run_folders(run))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_file_of_activations_needs_a_disk_with_room(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"model__activations_checkpoint_granularity": "full", "model__activations_offload": "disk"}

    def run_in(folder: Path) -> ResolvedRun:
        return resolved(inputs, tmp_path, **asked, model__activations_offload_folder=str(folder))

    check_activations_folder(run_in(tmp_path))
    with pytest.raises(ConfigError, match="a folder that exists"):
        check_activations_folder(run_in(tmp_path / "none"))
    if is_memory(Path("/dev/shm")):
        with pytest.raises(ConfigError, match="memory"):
            check_activations_folder(run_in(Path("/dev/shm")))
    monkeypatch.setattr("nemo_pi.checkpoint.space.free_bytes", lambda folder: 10)
    with pytest.raises(CheckpointError, match=r"activations.*disk is full.*activations_offload_folder"):
        check_activations_folder(run_in(tmp_path))


def test_a_gpu_that_is_not_there(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailableError, match=r"trainer\.accelerator"):
        check_before_training([resolved(inputs, tmp_path, trainer__accelerator="gpu")])


@pytest.mark.parametrize("split", ["train", "validation"])
def test_token_ids_outside_the_vocabulary(split: str, inputs: Path, tmp_path: Path) -> None:
    """Data of a larger vocabulary, in whichever split."""
    sound = write_tokens(tmp_path / "sound")
    foreign = write_tokens(tmp_path / "foreign", vocab_size=2 * SHAPE.vocab_size)
    prefixes = {"train": [str(sound)], "validation": [str(sound)], split: [str(foreign)]}
    changes: dict[str, Any] = {"model__data__data_prefix": prefixes, "trainer__limit_val_batches": 1}
    with pytest.raises(DataError, match="foreign"):
        check_before_training([resolved(inputs, tmp_path / "logs", **changes)])
    changes["model__data__check_token_ids"] = False
    check_before_training([resolved(inputs, tmp_path / "logs", **changes)])


def save(run: ResolvedRun, logs: Path, step: int) -> Path:
    """A checkpoint of this run at some step."""
    meta = {
        "shape": run.shape.to_dict(),
        "extension": run.extension.to_dict(),
        "global_step": step,
        "consumed_samples": 4 * step,
        RECORD: sample_settings(run),
    }
    engine = engine_of(shape=run.shape, extension=run.extension)
    folder = checkpoint_folder(logs / "checkpoints", step)
    save_engine(engine, folder, meta)
    return folder


def test_the_latest_checkpoint_is_gone_on_from(inputs: Path, tmp_path: Path) -> None:
    run = resolved(inputs, tmp_path)
    assert checkpoint_to_resume(run, run_folders(run)) is None
    for step in (2, 10, 9):
        save(run, tmp_path, step)
    latest = checkpoint_to_resume(run, run_folders(run))
    assert latest == checkpoint_folder(tmp_path / "checkpoints", 10)
    assert read_summary(latest).global_step == 10


def test_a_checkpoint_that_goes_meanwhile_is_no_obstacle(inputs: Path, tmp_path: Path) -> None:
    """Another run of this folder removes it; the lock then says that there is one."""
    run, chance = resolved(inputs, tmp_path), random.Random(1)
    older, newer = (save(run, tmp_path, step) for step in (2, 3))
    kept = shutil.copytree(newer, tmp_path / "kept")
    found = set()
    for _ in range(60):
        thread = threading.Timer(chance.uniform(0.0, 0.02), remove_checkpoints, ([newer],))
        thread.start()
        found.add(stage_to_resume([run], run_folders(run)))
        thread.join()
        shutil.copytree(kept, newer)
    assert found <= {(0, older), (0, newer)}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model__pos_scaling_type": "yarn"}, "method linear instead of yarn"),
        ({"model__max_position_embeddings": 128}, "target_window 256 instead of 128"),
    ],
)
def test_another_runs_checkpoint_is_not(
    changes: dict[str, Any], named: str, inputs: Path, tmp_path: Path
) -> None:
    save(resolved(inputs, tmp_path), tmp_path, 2)
    other = resolved(inputs, tmp_path, **changes)
    with pytest.raises(ConfigError, match=named):
        checkpoint_to_resume(other, run_folders(other))


def test_another_models_checkpoint_is_not(inputs: Path, tmp_path: Path) -> None:
    run = resolved(inputs, tmp_path)
    save(run, tmp_path, 2)
    other = changed(run, shape=replace(run.shape, norm_epsilon=1e-6))
    with pytest.raises(ConfigError, match="norm_epsilon 1e-05 instead of 1e-06"):
        checkpoint_to_resume(other, run_folders(other))


def test_a_run_that_does_not_resume_wants_a_folder_of_its_own(inputs: Path, tmp_path: Path) -> None:
    run = resolved(inputs, tmp_path, exp_manager__resume_if_exists=False)
    assert checkpoint_to_resume(run, run_folders(run)) is None
    save(run, tmp_path, 2)
    with pytest.raises(ConfigError, match="resume_if_exists"):
        checkpoint_to_resume(run, run_folders(run))
