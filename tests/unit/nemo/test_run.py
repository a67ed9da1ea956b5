"""A run from its YAML to its results, in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from nemo_pi.checkpoint.manifest import read_manifest
from nemo_pi.checkpoint.retention import complete_checkpoints, latest_checkpoint
from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.errors import ConfigError, NemoPiError
from nemo_pi.kernels.backends import JOBS
from nemo_pi.nemo.run import run
from tests.unit.model.models import SHAPE, WINDOW, causal_logits, forward, ours_from, random_tokens
from tests.unit.nemo.runs import configuration

FROM_SCRATCH = {
    "restore_from_path": None,
    "model__num_layers": SHAPE.num_layers,
    "model__hidden_size": SHAPE.hidden_size,
    "model__ffn_hidden_size": SHAPE.ffn_hidden_size,
    "model__num_attention_heads": SHAPE.num_attention_heads,
    "model__vocab_size": SHAPE.vocab_size,
    "model__pos_scaling_factor": 4.0,
}

pytestmark = pytest.mark.usefixtures("one_rank")


@pytest.fixture(scope="module")
def trained(one_rank: None, inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run of four steps, exported."""
    folder = tmp_path_factory.mktemp("trained")
    result = run(configuration(inputs, folder, model__export__hf_path=str(folder / "exported")))
    assert result is not None and result.global_step == 4
    assert result.exported == folder / "exported"
    return folder


def exported_weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).state_dict()


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(configuration(inputs, tmp_path / "logs", dry_run=True)) is None
    assert "Plan of tiny" in capsys.readouterr().out
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model__data__data_prefix": ["nowhere/at_all"]}, "model.data.data_prefix: .*no file nowhere"),
        ({"model__data__data_prefix": ["a", 3]}, "model.data.data_prefix: .*one weight before each path"),
        (
            {"trainer__limit_val_batches": 1, "model__data__splits_string": "100,1,0"},
            "model.data.splits_string: .*validation",
        ),
        ({"model__data__splits_string": "1,2,3,4"}, "model.data.splits_string: "),
        ({"model__tokenizer": {"model": "nowhere"}}, "model.tokenizer.model: .*nowhere"),
        ({"model__rotary_percentage": 0.5, "model__export__hf_path": "export"}, "rotary_percentage"),
        ({"model__export__hf_path": "in_use"}, "diary"),
        ({"model__export__hf_path": "in_use/diary.txt/below"}, "model.export.hf_path: "),
        ({"exp_manager__explicit_log_dir": "in_use/diary.txt/below"}, "exp_manager.exp_dir: "),
    ],
    ids=str,
)
def test_a_dry_run_refuses_what_the_run_would(
    changes: dict[str, Any], words: str, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in_use").mkdir()
    (tmp_path / "in_use" / "diary.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    if "model__rotary_percentage" in changes:  # only without a checkpoint is it the YAML's to say
        changes = {**changes, **FROM_SCRATCH}
    messages = set()
    for dry_run in (True, False):
        with pytest.raises(NemoPiError, match=words) as caught:
            run(configuration(inputs, tmp_path / "logs", **{"dry_run": dry_run, **changes}))
        messages.add(str(caught.value))
    assert len(messages) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_may_leave_the_data_open(inputs: Path, tmp_path: Path) -> None:
    assert run(configuration(inputs, tmp_path, dry_run=True, model__data__data_prefix=None)) is None


def test_a_mistake_is_found_before_anything_is_written(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(NemoPiError, match="pos_scaling_factor"):
        run(configuration(inputs, tmp_path / "logs", model__pos_scaling_factor=3.0))
    assert not (tmp_path / "logs").exists()


def test_the_checkpoint_says_what_was_done(trained: Path) -> None:
    (checkpoint,) = complete_checkpoints(trained / "checkpoints")
    summary = read_summary(checkpoint)
    assert (summary.global_step, summary.consumed_samples) == (4, 16)
    assert (summary.extension.method, summary.extension.factor) == ("linear", 4.0)
    assert (summary.extension.original_window, summary.extension.target_window) == (WINDOW, 4 * WINDOW)


def test_the_export_is_what_transformers_computes(trained: Path, inputs: Path) -> None:
    """Over the whole target window, with weights that training has moved."""
    model = AutoModelForCausalLM.from_pretrained(trained / "exported", local_files_only=True)
    assert model.config.max_position_embeddings == 4 * WINDOW
    tokens_BS = random_tokens(rows=1, length=4 * WINDOW)
    extension = read_summary(trained / "exported").extension
    with torch.no_grad():
        ours_BSV = forward(ours_from(trained / "exported", extension), tokens_BS)
        torch.testing.assert_close(ours_BSV, causal_logits(model, tokens_BS), rtol=1e-3, atol=1e-3)
    start = exported_weights(inputs / "start")
    assert all(not torch.equal(weight, start[name]) for name, weight in model.state_dict().items())


def test_a_resumed_run_equals_an_uninterrupted_one(trained: Path, inputs: Path, tmp_path: Path) -> None:
    """To the last bit, the order of samples included."""
    for steps in (2, 4):
        cfg = configuration(
            inputs, tmp_path, trainer__max_steps=steps, model__export__hf_path=str(tmp_path / str(steps))
        )
        result = run(cfg)
        assert result is not None and result.global_step == steps
    whole, resumed = exported_weights(trained / "exported"), exported_weights(tmp_path / "4")
    assert all(torch.equal(weight, resumed[name]) for name, weight in whole.items())
    half = exported_weights(tmp_path / "2")
    assert any(not torch.equal(weight, half[name]) for name, weight in whole.items())


def test_a_resumed_run_keeps_its_backends(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Named once; what goes on asks for `auto`, which would be something else."""
    named = {"model__rotary_kernel": "torch", "model__softmax_backend": "torch"}
    run(configuration(inputs, tmp_path, trainer__max_steps=1, **named))
    (checkpoint,) = complete_checkpoints(tmp_path / "checkpoints")
    recorded = read_manifest(checkpoint)["backends"]
    assert set(recorded) == {*JOBS, "rotary"} and recorded["rotary"] == recorded["softmax"] == "torch"
    capsys.readouterr()
    run(configuration(inputs, tmp_path, trainer__max_steps=2))
    assert "torch (as this run began)" in capsys.readouterr().out
    latest = latest_checkpoint(tmp_path / "checkpoints")
    assert latest is not None and latest != checkpoint
    assert read_manifest(latest)["backends"] == recorded


def test_samples_of_another_kind_are_refused_before_anything_is_written(trained: Path, inputs: Path) -> None:
    before = sorted(trained.rglob("*"))
    for change, words in (
        ({"model__data__pose": {}}, "required null, null, null, as"),
        ({"model__data__seed": 7}, "model.data.seed: required 1234, as"),
        ({"model__data__seed": 7, "dry_run": True}, "model.data.seed: required 1234, as"),
    ):
        with pytest.raises(ConfigError) as caught:
            run(configuration(inputs, trained, trainer__max_steps=6, **change))
        assert words in str(caught.value)
    assert sorted(trained.rglob("*")) == before


def test_the_result_is_announced(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(configuration(inputs, tmp_path, trainer__max_steps=1))
    assert result is not None and result.exported is None  # no path, no export
    capsys.readouterr()
    result.announce()
    printed = capsys.readouterr().out
    assert "step 1" in printed and str(tmp_path / "checkpoints") in printed
