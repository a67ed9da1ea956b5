"""What a path is said to hold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from nemo_pi.checkpoint.distributed import save_distributed
from nemo_pi.checkpoint.summary import read_source_config, read_summary
from nemo_pi.errors import CheckpointError
from nemo_pi.rope.spec import ContextExtension
from tests.unit.checkpoint.models import SIZES, filled_chunks, meta_of, model_state


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("llama", "float32"), ("sharded_llama", "bfloat16"), ("tied_llama", "float32"), ("mistral", "float16")],
)
def test_a_huggingface_folder(name: str, dtype: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(name)
    summary = read_summary(str(folder))
    assert (summary.kind, summary.path, summary.dtype) == ("huggingface", folder, dtype)
    assert summary.shape.num_layers == SIZES["num_hidden_layers"]
    assert summary.shape.tied_embeddings == (name == "tied_llama")
    assert summary.shape.sliding_window == (8 if name == "mistral" else None)
    assert summary.extension == ContextExtension.unscaled(64, head_dim=16)
    assert summary.window_source == f"{folder / 'config.json'}: max_position_embeddings"
    assert (summary.global_step, summary.consumed_samples, summary.tokenizer_path) == (0, 0, None)


def test_a_distributed_checkpoint(mistral: Path, tmp_path: Path, single_rank: None) -> None:
    source, chunks = filled_chunks(mistral)
    (tmp_path / "tokenizer.json").write_text("{}")
    longer = ContextExtension.build(original_window=64, target_window=512, method="yarn", head_dim=16)
    meta = {
        **meta_of(source),
        "extension": longer.to_dict(),
        "source_config": read_source_config(mistral),
    }
    chunks[0].bfloat16()
    folder = save_distributed(tmp_path / "step_3", model_state(chunks), meta, tokenizer_path=tmp_path)
    summary = read_summary(folder)
    assert (summary.kind, summary.path, summary.dtype) == ("distributed", folder, "bfloat16")
    assert (summary.shape, summary.extension) == (source.shape, longer)
    assert (summary.global_step, summary.consumed_samples) == (3, 12)
    assert summary.tokenizer_path == folder / "tokenizer"
    assert "nemo_pi.json" in summary.window_source
    assert read_source_config(folder) == read_source_config(mistral)

    with pytest.raises(CheckpointError, match="give one of the checkpoints inside it"):
        read_summary(tmp_path)
    (folder / "common.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"common\.pt"):
        read_summary(folder)


@pytest.mark.parametrize("change", [{"shape": {}}, {"extension": {"method": "linear"}}, {"extension": {}}])
def test_a_manifest_without_a_model(change: dict, llama: Path, tmp_path: Path, single_rank: None) -> None:
    summary, chunks = filled_chunks(llama)
    folder = save_distributed(tmp_path / "a", model_state(chunks), {**meta_of(summary), **change})
    with pytest.raises(CheckpointError, match="shape and extension of a model"):
        read_summary(folder)


def test_a_method_that_nobody_has_registered(llama: Path, tmp_path: Path, single_rank: None) -> None:
    source, chunks = filled_chunks(llama)
    meta = meta_of(source)
    meta["extension"] = {**meta["extension"], "method": "softened", "method_package": "acme_rope 1.2"}
    folder = save_distributed(tmp_path / "step_3", model_state(chunks), meta)
    with pytest.raises(CheckpointError, match=r"nemo_pi\.json: method: .*given 'softened'") as caught:
        read_summary(folder)
    assert caught.value.fix.startswith("install the package that registers it")
    assert "'acme_rope 1.2'" in caught.value.fix


def test_gpt2_has_no_rotary_positions(tmp_path: Path) -> None:
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=16))
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"rotary position embeddings.*gpt2"):
        read_summary(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such path"):
        read_summary(tmp_path / "missing")
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="given a file"):
        read_summary(tmp_path / "file")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("adapter_config.json", "merges it with its base"),
        ("metadata.json", "incomplete or foreign"),
        ("model.gguf", "GGUF"),
        ("model.safetensors", r"config\.json"),
    ],
)
def test_other_folders_are_told_apart(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(CheckpointError, match=message):
        read_summary(tmp_path)


def test_only_pickled_weights(llama: Path, tmp_path: Path) -> None:
    shutil.copy(llama / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(CheckpointError, match="convert them to safetensors"):
        read_summary(tmp_path)


def test_a_scaled_model_says_so(llama: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(llama, tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    config |= {"max_position_embeddings": 256, "rope_scaling": {"type": "linear", "factor": 4.0}}
    del config["rope_parameters"]
    (folder / "config.json").write_text(json.dumps(config))
    summary = read_summary(folder)
    assert summary.extension.is_scaled
    assert (summary.extension.method, summary.extension.original_window) == ("linear", 64)
    assert summary.window_source.endswith("max_position_embeddings / factor")


def test_a_summary_reads_no_weights(llama: Path, tmp_path: Path) -> None:
    """Zeroed weights change nothing: headers are all it looks at."""
    folder = Path(shutil.copytree(llama, tmp_path / "copy"))
    path = folder / "model.safetensors"
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    path.write_bytes(content[:header] + bytes(len(content) - header))
    assert read_summary(folder).shape == read_summary(llama).shape


def test_more_layers_than_the_weights_can_hold(llama: Path, tmp_path: Path) -> None:
    """Before the tensors of all of them are named."""
    folder = Path(shutil.copytree(llama, tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 65_536}))
    with pytest.raises(CheckpointError, match=r"num_hidden_layers: required no more .*; given 65,536"):
        read_summary(folder)
