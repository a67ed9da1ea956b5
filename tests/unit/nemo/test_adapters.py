"""A run that trains adapters: what it saves, from what it goes on, and both of its exports."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from nemo_pi.checkpoint.hf.peft import CONFIG, WEIGHTS
from nemo_pi.checkpoint.manifest import MANIFEST
from nemo_pi.checkpoint.safe_pickle import read_metadata
from nemo_pi.checkpoint.summary import read_base, read_summary
from nemo_pi.cli.convert import convert
from nemo_pi.engine.opening import open_engine
from nemo_pi.errors import CheckpointError, ConfigError
from nemo_pi.nemo.run import run
from nemo_pi.parallel.layout import ParallelLayout
from tests.unit.checkpoint.models import assert_same_bits, stored_tensors
from tests.unit.model.models import causal_logits, forward, random_tokens
from tests.unit.nemo.runs import configuration

ADAPTERS: dict[str, Any] = {
    "peft_scheme": "lora",
    "lora_tuning": {"adapter_dim": 4, "alpha": 8, "target_modules": ["all"]},
    "train_embeddings_and_norms": True,
}
TOKENS = random_tokens(length=80)  # beyond the original window


def train(inputs: Path, folder: Path, **changes: Any) -> Path:
    """Runs to its end in `folder`; its last checkpoint."""
    result = run(configuration(inputs, folder / "logs", **{"model__peft": ADAPTERS, **changes}))
    assert result is not None
    return sorted(result.folders.checkpoints.glob("step_*"))[-1]


@pytest.fixture(scope="module")
def trained(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run with both exports."""
    folder = tmp_path_factory.mktemp("trained")
    train(
        inputs,
        folder,
        model__export__hf_path=str(folder / "merged"),
        model__export__peft_path=str(folder / "adapters"),
    )
    return folder


@pytest.fixture
def checkpoint(trained: Path) -> Path:
    """The last checkpoint of that run."""
    return sorted((trained / "logs" / "checkpoints").glob("step_*"))[-1]


def logits(folder: Path) -> Tensor:
    """transformers' of a folder of whole weights."""
    return causal_logits(AutoModelForCausalLM.from_pretrained(folder).eval(), TOKENS)


@torch.no_grad()
def test_exports_and_checkpoint_compute_the_same(inputs: Path, trained: Path, checkpoint: Path) -> None:
    expected = logits(trained / "merged")
    config = AutoConfig.from_pretrained(trained / "adapters")
    base = AutoModelForCausalLM.from_pretrained(inputs / "start", config=config)
    beside = PeftModel.from_pretrained(base, str(trained / "adapters")).eval()
    assert (causal_logits(beside, TOKENS) - expected).abs().max() < 1e-4
    engine = open_engine(read_summary(checkpoint), ParallelLayout())
    assert (forward(engine.chunks[0].eval(), TOKENS) - expected).abs().max() < 1e-4
    assert (logits(inputs / "start") - expected).abs().max() > 1e-2


def convert_(source: Path, target: Path, **how: Any) -> str:
    """On one rank."""
    return convert(source, target, **{"tp": 1, "pp": 1, "dtype": None, "overwrite": False, **how})[1]


def test_a_checkpoint_is_converted_to_what_the_run_exports(
    trained: Path, checkpoint: Path, tmp_path: Path
) -> None:
    assert convert_(checkpoint, tmp_path / "merged") == "huggingface"
    assert_same_bits(stored_tensors(tmp_path / "merged"), stored_tensors(trained / "merged"))
    assert convert_(checkpoint, tmp_path / "adapters", as_peft=True) == "peft"
    assert_same_bits(*(load_file(folder / "adapters" / WEIGHTS) for folder in (tmp_path, trained)))
    for name in (CONFIG, "config.json"):
        assert (tmp_path / "adapters" / name).read_text() == (trained / "adapters" / name).read_text()
    with pytest.raises(CheckpointError, match=r"given a PEFT adapter.*convert_checkpoint\.py CHECKPOINT"):
        read_summary(tmp_path / "adapters")
    with pytest.raises(ConfigError, match="--peft"):
        convert_(trained / "merged", tmp_path / "no", as_peft=True)


def test_only_what_is_trained_is_saved(trained: Path, checkpoint: Path) -> None:
    listed = read_metadata(checkpoint / ".metadata").state_dict_metadata
    weights = [name for name in listed if not name.startswith("optimizer")]
    assert weights and all(
        "adapter." in name or "norm" in name or name.startswith("embedding.") for name in weights
    )


def test_a_base_that_has_moved_is_found_by_the_link_that_the_message_names(
    inputs: Path, checkpoint: Path, tmp_path: Path
) -> None:
    copied = tmp_path / "step"
    shutil.copytree(checkpoint, copied)
    manifest = json.loads((copied / MANIFEST).read_text())
    gone = tmp_path / "gone"
    manifest["adapter"]["base"]["path"] = str(gone)
    (copied / MANIFEST).write_text(json.dumps(manifest))
    summary = read_summary(copied)
    with pytest.raises(CheckpointError, match=f"ln -s NEW_PLACE {gone}"):
        open_engine(summary, ParallelLayout())
    gone.symlink_to(inputs / "start")
    assert read_base(summary).kind == "huggingface"
    open_engine(summary, ParallelLayout())


def test_another_base_is_refused(inputs: Path, checkpoint: Path, tmp_path: Path) -> None:
    summary = read_summary(checkpoint)
    assert summary.adapter is not None
    shutil.copytree(inputs / "start", tmp_path / "start")
    config = json.loads((tmp_path / "start" / "config.json").read_text())
    (tmp_path / "start" / "config.json").write_text(json.dumps({**config, "rope_theta": 5e5}))
    other = replace(summary, adapter=replace(summary.adapter, base_path=tmp_path / "start"))
    with pytest.raises(CheckpointError, match=r"the base of .*or another config\.json"):
        open_engine(other, ParallelLayout())


@torch.no_grad()
def test_new_adapters_beside_merged_ones(
    inputs: Path, trained: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """A base may be a checkpoint of adapters itself; its positions are scaled already."""
    with torch.enable_grad():
        last = train(
            inputs,
            tmp_path,
            restore_from_path=str(checkpoint),
            model__peft={"lora_tuning": {"adapter_dim": 2, "target_modules": ["mlp"]}},
            model__max_position_embeddings=None,
            model__export__hf_path=str(tmp_path / "merged"),
            trainer__max_steps=1,
        )
    engine = open_engine(read_summary(last), ParallelLayout())
    expected = logits(tmp_path / "merged")
    assert (forward(engine.chunks[0].eval(), TOKENS) - expected).abs().max() < 1e-4
    assert (logits(trained / "merged") - expected).abs().max() > 1e-4


def test_dropout_is_the_same_after_a_restart(inputs: Path, trained: Path, tmp_path: Path) -> None:
    drops = {**ADAPTERS, "lora_tuning": {**ADAPTERS["lora_tuning"], "adapter_dropout": 0.5}}
    more = {"model__peft": drops, "exp_manager__checkpoint_callback_params__every_n_train_steps": 2}
    whole = train(inputs, tmp_path / "whole", **more)
    two_steps = train(inputs, tmp_path / "parts", **more, trainer__max_steps=2)
    resumed = train(inputs, tmp_path / "parts", **more)
    assert (two_steps.name, resumed.name) == ("step_00000002", whole.name)
    for folder in (whole, resumed):
        convert_(folder, folder.parent / "adapters", as_peft=True)
    weights = [load_file(folder.parent / "adapters" / WEIGHTS) for folder in (whole, resumed)]
    assert_same_bits(*weights)
    without = load_file(trained / "adapters" / WEIGHTS)
    assert any(not torch.equal(without[name], tensor) for name, tensor in weights[0].items())


def test_stages_go_on_with_the_adapters_of_the_one_before(
    inputs: Path, trained: Path, tmp_path: Path
) -> None:
    last = train(inputs, tmp_path, stages=[{"max_steps": 2}, {"max_steps": 2}], trainer__max_steps=None)
    convert_(last, tmp_path / "adapters", as_peft=True)
    assert_same_bits(*(load_file(folder / "adapters" / WEIGHTS) for folder in (tmp_path, trained)))
