"""examples/convert_checkpoint.py: there and back, on one rank and on several, as a user would call it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from nemo_pi.checkpoint.integrity import verify
from nemo_pi.checkpoint.summary import read_summary
from tests.integration.launch import ROOT, Finished, launch
from tests.integration.world import World
from tests.unit.checkpoint.models import assert_same_bits, save_transformers_model, stored_tensors

SCRIPT = ROOT / "examples" / "convert_checkpoint.py"
TP2 = ("--tensor-model-parallel-size", "2")
PP2 = ("--pipeline-model-parallel-size", "2")


def convert(folder: Path, *arguments: object, ranks: int = 1, launcher: str = "warm") -> Finished:
    """Runs the script in `folder`."""
    return launch(
        [str(argument) for argument in arguments],
        folder=folder / "work",
        ranks=ranks,
        launcher=launcher,
        script=SCRIPT,
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A bf16 model that transformers wrote, scaled by 4, with tokenizer files."""
    folder = save_transformers_model(tmp_path / "source", dtype=torch.bfloat16)
    (folder / "tokenizer.json").write_text("{}")
    config = json.loads((folder / "config.json").read_text())
    config |= {"max_position_embeddings": 256, "rope_scaling": {"type": "linear", "factor": 4.0}}
    del config["rope_parameters"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_there_and_back_at_other_layouts(source: Path, tmp_path: Path) -> None:
    there = convert(tmp_path, source, tmp_path / "distributed", *TP2, *PP2, ranks=4)
    there.check()
    for expected in ("(huggingface)", "in bfloat16", "64 to 256 tokens, linear by 4", "(distributed)"):
        assert there.out.count(expected) == 1, f"{expected} in\n{there.out}"
    manifest = verify(tmp_path / "distributed")
    assert manifest["shape"] == read_summary(source).shape.to_dict()
    assert read_summary(tmp_path / "distributed").dtype == "bfloat16"

    back = convert(tmp_path, tmp_path / "distributed", tmp_path / "back", *PP2, ranks=2)
    back.check()
    assert_same_bits(stored_tensors(tmp_path / "back"), stored_tensors(source))
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        assert json.loads((tmp_path / "back" / name).read_text()) == json.loads((source / name).read_text())

    wide = convert(tmp_path, tmp_path / "distributed", tmp_path / "wide", "--dtype", "float32")
    wide.check()
    expected = {name: tensor.float() for name, tensor in stored_tensors(source).items()}
    assert_same_bits(stored_tensors(tmp_path / "wide"), expected)


@pytest.mark.parametrize("model", ["qwen2", "qwen3", "olmo2"])
def test_biases_and_norms_of_heads_there_and_back(model: str, world: World, tmp_path: Path) -> None:
    source = world.models[model]
    convert(tmp_path, source, tmp_path / "distributed", *TP2, *PP2, ranks=4).check()
    convert(tmp_path, tmp_path / "distributed", tmp_path / "back", *TP2, ranks=2).check()
    assert_same_bits(stored_tensors(tmp_path / "back"), stored_tensors(source))
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == json.loads(
        (source / "config.json").read_text()
    )


def test_nothing_is_overwritten_unasked(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    convert(tmp_path, source, target).check()
    before = (target / "nemo_pi.json").read_text()
    again = convert(tmp_path, source, target)
    assert again.statuses == (2,)
    assert "CheckpointError" in again.err and "--overwrite" in again.err and "Traceback" not in again.err
    assert (target / "nemo_pi.json").read_text() == before
    convert(tmp_path, source, target, "--overwrite").check()
    foreign = convert(tmp_path, source, tmp_path, "--overwrite")
    assert foreign.statuses == (2,), "a folder that is no checkpoint is not replaced even then"
    assert source.is_dir()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (TP2, "model.tensor_model_parallel_size"),
        (("--tensor-model-parallel-size", "3"), "a divisor of num_attention_heads=8; given 3"),
        (("--pipeline-model-parallel-size", "3"), "num_layers=4"),
        (("--dtype", "float16"), "--dtype"),
        (("--architecture", "LlamaForCausalLM"), "--architecture: required auto, unless"),
    ],
)
def test_mistakes_are_named(arguments: tuple[str, ...], message: str, source: Path, tmp_path: Path) -> None:
    wrong = convert(tmp_path, source, tmp_path / "new", *arguments)
    assert wrong.statuses == (2,)
    assert "ConfigError" in wrong.err and message in wrong.err and "Traceback" not in wrong.err
    assert not (tmp_path / "new").exists()


def test_pickled_weights_become_a_folder_that_opens(world: World, tmp_path: Path) -> None:
    """A vocabulary that two ranks cannot share: in by pickles, through TP 2, and out with the same bits."""
    source = world.models["odd"]
    pickled = tmp_path / "pickled"
    shutil.copytree(source, pickled, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(stored_tensors(source), pickled / "pytorch_model.bin")
    plain = convert(tmp_path, pickled, tmp_path / "plain")
    plain.check()
    assert "(pickled weights)" in plain.out and "(huggingface)" in plain.out
    assert (tmp_path / "plain" / "tokenizer.json").is_file()
    convert(tmp_path, tmp_path / "plain", tmp_path / "distributed", *TP2, *PP2, ranks=4).check()
    convert(tmp_path, tmp_path / "distributed", tmp_path / "back").check()
    assert_same_bits(stored_tensors(tmp_path / "back"), stored_tensors(source))
    again = convert(tmp_path, pickled, tmp_path / "plain")
    assert again.statuses == (2,) and "--overwrite" in again.err
    ranks = convert(tmp_path, pickled, tmp_path / "other", *TP2, ranks=2)
    assert ranks.statuses == (2, 2) and "1 and 1 on one rank for pickled weights" in ranks.err
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_under_torchrun(source: Path, tmp_path: Path) -> None:
    convert(tmp_path, source, tmp_path / "new", *TP2, ranks=2, launcher="torchrun").check()
    verify(tmp_path / "new")
