"""Hugging Face weights in a Megatron model: transformers' logits, and every way to fail."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from megatron.core.transformer.module import Float16Module
from safetensors.torch import load_file, save_file, save_model
from transformers import AutoModelForCausalLM

from nemo_pi.checkpoint.hf.load import load_huggingface
from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.errors import CheckpointError
from nemo_pi.model.build import BuildOptions, build_model_chunks
from nemo_pi.parallel.layout import ParallelLayout
from tests.unit.checkpoint.models import build_chunks, filled_chunks

pytestmark = pytest.mark.usefixtures("single_rank")

TOKENS = torch.randint(0, 96, (2, 40), generator=torch.Generator().manual_seed(3))


def our_logits(folder: Path, *, interleaved: bool = False) -> torch.Tensor:
    """Logits [B, S, V] of our model filled from a folder."""
    summary = read_summary(folder)
    extension = replace(summary.extension, interleaved=interleaved)
    chunks = build_model_chunks(summary.shape, extension, ParallelLayout(), BuildOptions())
    load_huggingface(chunks, folder, summary.shape, extension=extension)
    positions = torch.arange(TOKENS.shape[1]).expand_as(TOKENS)
    with torch.no_grad():
        return chunks[0].eval()(TOKENS, positions, None)


def their_logits(folder: Path) -> torch.Tensor:
    """Logits of transformers, in fp32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        return model.eval()(TOKENS).logits


@pytest.mark.parametrize("name", ["llama", "sharded_llama", "tied_llama", "mistral"])
def test_logits_are_those_of_transformers(name: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(name)
    torch.testing.assert_close(our_logits(folder), their_logits(folder), rtol=1e-4, atol=2e-4)


def test_an_interleaved_model_computes_the_same(llama: Path) -> None:
    ours = our_logits(llama, interleaved=True)
    torch.testing.assert_close(ours, their_logits(llama), rtol=1e-4, atol=2e-4)


def test_every_parameter_is_filled_and_rounded_to_its_dtype(sharded_llama: Path) -> None:
    _, chunks = filled_chunks(sharded_llama)
    for name, parameter in chunks[0].named_parameters():
        assert parameter.isfinite().all(), name
        assert torch.equal(parameter, parameter.bfloat16().float()), name


def test_a_wrapped_16_bit_model(llama: Path) -> None:
    summary = read_summary(llama)
    config_chunk = build_chunks(summary.shape)[0]
    config_chunk.config.bf16 = True
    wrapped = Float16Module(config_chunk.config, config_chunk)
    load_huggingface([wrapped], llama, summary.shape)
    stored = load_file(llama / "model.safetensors")["model.norm.weight"]
    ours = config_chunk.decoder.final_layernorm.weight
    assert ours.dtype is torch.bfloat16
    assert torch.equal(ours, stored.bfloat16())


@pytest.fixture
def copy(llama: Path, tmp_path: Path) -> Path:
    """A folder that a test may damage."""
    return Path(shutil.copytree(llama, tmp_path / "copy"))


def edit(folder: Path, **changes: torch.Tensor | None) -> None:
    """Replaces, adds or (None) removes tensors; `__` stands for a dot."""
    tensors = load_file(folder / "model.safetensors")
    for name, value in changes.items():
        name = name.replace("__", ".")
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__norm__weight": None}, r"tensor model\.norm\.weight; given none"),
        ({"model__layers__0__self_attn__q_proj__bias": torch.zeros(128)}, "unexpected"),
        ({"model__layers__4__input_layernorm__weight": torch.zeros(64)}, "layers.4.*unexpected"),
        ({"lm_head__weight": torch.zeros(90, 64)}, r"shape \[96, 64\]; given shape \[90, 64\]"),
        ({"lm_head__weight": None}, r"tensor lm_head\.weight"),
    ],
)
def test_tensors_that_do_not_fit(copy: Path, changes: dict, message: str) -> None:
    summary = read_summary(copy)
    edit(copy, **changes)
    chunks = build_chunks(summary.shape)
    before = chunks[0].output_layer.weight.clone()
    with pytest.raises(CheckpointError, match=message):
        load_huggingface(chunks, copy, summary.shape)
    assert torch.equal(chunks[0].output_layer.weight, before), "nothing may be loaded before the check"
    with pytest.raises(CheckpointError, match=message):
        read_summary(copy)


def test_a_tied_output_layer_may_be_stored_if_equal(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight: required absent, or equal"):
        read_summary(copy)
    embedding = load_file(copy / "model.safetensors")["model.embed_tokens.weight"]
    edit(copy, lm_head__weight=embedding.clone())
    assert read_summary(copy).shape.tied_embeddings
    _, chunks = filled_chunks(copy)
    assert torch.equal(chunks[0].embedding.word_embeddings.weight, embedding)


@pytest.mark.parametrize("shard", ["5GB", "20KB"])
def test_a_tied_matrix_may_be_stored_as_the_output_layer_alone(
    shard: str, tied_llama: Path, tmp_path: Path
) -> None:
    """As safetensors' own save_model writes a Llama: it keeps one name of a shared tensor."""
    folder = tmp_path / "model"
    model = AutoModelForCausalLM.from_pretrained(tied_llama)
    model.save_pretrained(folder, max_shard_size=shard)
    if shard == "5GB":
        (folder / "model.safetensors").unlink()
        save_model(model, str(folder / "model.safetensors"), metadata={"format": "pt"})
    else:
        rename_stored(folder, "model.embed_tokens.weight", "lm_head.weight")
    names = [name for file in folder.glob("*.safetensors") for name in load_file(file)]
    assert "lm_head.weight" in names and "model.embed_tokens.weight" not in names
    torch.testing.assert_close(our_logits(folder), their_logits(tied_llama), rtol=1e-4, atol=2e-4)
    assert read_summary(folder).dtype == "float32"


def rename_stored(folder: Path, name: str, other: str) -> None:
    """Renames a tensor of a sharded folder."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    file = folder / index["weight_map"].pop(name)
    tensors = load_file(file)
    tensors[other] = tensors.pop(name)
    save_file(tensors, file, metadata={"format": "pt"})
    index["weight_map"][other] = file.name
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_an_output_layer_alone_is_no_model_where_it_is_not_tied(copy: Path) -> None:
    edit(copy, model__embed_tokens__weight=None)
    with pytest.raises(CheckpointError, match=r"tensor model\.embed_tokens\.weight"):
        read_summary(copy)


def test_a_difference_in_the_last_row_of_a_tied_layer(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nemo_pi.checkpoint.hf.load._ROWS_AT_ONCE", 40)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    embedding = load_file(copy / "model.safetensors")["model.embed_tokens.weight"].clone()
    edit(copy, lm_head__weight=embedding.clone())
    read_summary(copy)
    embedding[95, 63] += 1e-3
    edit(copy, lm_head__weight=embedding)
    with pytest.raises(CheckpointError, match="given another matrix"):
        read_summary(copy)


def test_too_many_tensor_parallel_ranks(llama: Path) -> None:
    """8 ranks divide every matrix, but would cut key/value heads in two."""
    summary = read_summary(llama)
    with pytest.raises(CheckpointError, match="divisor of the 4 key/value heads; given 8"):
        load_huggingface(build_chunks(summary.shape), llama, summary.shape, tp_size=8)


def test_a_model_of_another_size(llama: Path) -> None:
    summary = read_summary(llama)
    chunks = build_chunks(replace(summary.shape, ffn_hidden_size=40))
    with pytest.raises(CheckpointError, match=r"linear_fc1.*shape \[80, 64\].*given shape \[160, 64\]"):
        load_huggingface(chunks, llama, summary.shape)


def test_a_parameter_without_counterpart(llama: Path) -> None:
    summary = read_summary(llama)
    chunks = build_chunks(summary.shape)
    chunks[0].decoder.register_parameter("extra", torch.nn.Parameter(torch.zeros(1)))
    with pytest.raises(CheckpointError, match=r"decoder\.extra"):
        load_huggingface(chunks, llama, summary.shape)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_no_numbers_are_named(value: float, llama: Path, tmp_path: Path) -> None:
    folder, name = shutil.copytree(llama, tmp_path / "damaged"), "model.layers.1.self_attn.o_proj.weight"
    tensors = load_file(folder / "model.safetensors")
    tensors[name][0, 0] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=name):
        our_logits(folder)
