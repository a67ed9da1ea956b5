"""GGUF files of a Llama: the tensors of transformers' own reader, and the positions that were meant."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from nemo_pi.checkpoint.hf.rewrite import rewrite_gguf
from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.errors import CheckpointError
from nemo_pi.rope.tables import attention_factor, inverse_frequencies
from tests.unit.checkpoint.models import assert_same_bits, save_transformers_model, stored_tensors

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed (pip install 'nemo_pi[gguf]')")

# hidden 64 would be two blocks of 32 numbers, the unit of quantisation
SIZES = {"hidden_size": 128, "intermediate_size": 160}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_transformers_model(tmp_path_factory.mktemp("model") / "llama", **SIZES)


NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def gguf_name(name: str) -> str:
    for theirs, own in NAMES.items():
        name = name.replace(theirs, own)
    return name.replace("model.layers", "blk")


def neighbours(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head reordered from halves to pairs: llama.cpp rotates neighbours."""
    half = weight.shape[0] // heads // 2
    rows = [h * 2 * half + part * half + j for h in range(heads) for j in range(half) for part in range(2)]
    return weight[rows]


def write(model: Path, file: Path, quantised: str | None = None, factors: Any = None, **keys: Any) -> Path:
    """What llama.cpp's converter writes of a Llama, without a tokenizer."""
    config = json.loads((model / "config.json").read_text())
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config["vocab_size"])
    for key, value in keys.items():
        key = "llama.rope.scaling." + key
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_float32(key, value)
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for name, tensor in stored_tensors(model).items():
        own, values = gguf_name(name), tensor.float().numpy()
        for part, number in heads.items():
            values = neighbours(values, number or 8) if part in own else values
        if quantised and values.ndim == 2:
            kind = gguf.GGMLQuantizationType[quantised]
            writer.add_tensor(own, gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(own, values)
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", np.asarray(factors, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def by_transformers(file: Path) -> dict[str, torch.Tensor]:
    """The state dict of transformers' own reader."""
    config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    with torch.device("meta"):
        empty = LlamaForCausalLM(config)
    return load_gguf_checkpoint(str(file), return_tensors=True, model_to_load=empty)["tensors"]


@pytest.mark.parametrize("kind", [None, "Q8_0", "Q4_0", "F16", "BF16"])
def test_tensors_are_those_of_transformers_reader(kind: str | None, model: Path, tmp_path: Path) -> None:
    file = write(model, tmp_path / "model.gguf", kind)
    rewrite_gguf(file, tmp_path / "new")
    stored, theirs = stored_tensors(tmp_path / "new"), by_transformers(file)
    plain = {"F16": torch.float16, "BF16": torch.bfloat16}.get(kind or "", torch.float32)
    for name, tensor in stored.items():
        assert tensor.dtype is (plain if tensor.dim() == 2 else torch.float32), name
    assert_same_bits({name: tensor.float() for name, tensor in stored.items()}, theirs)
    if kind is None:
        assert_same_bits(stored, stored_tensors(model))
    summary, original = read_summary(tmp_path / "new"), read_summary(model)
    assert summary.shape == original.shape and summary.extension == original.extension
    AutoModelForCausalLM.from_pretrained(tmp_path / "new")


def test_a_tied_model_has_no_output_layer(tmp_path: Path) -> None:
    tied = save_transformers_model(tmp_path / "tied", tie_word_embeddings=True, **SIZES)
    rewrite_gguf(write(tied, tmp_path / "tied.gguf"), tmp_path / "new", dtype="bfloat16")
    wanted = {name: tensor.bfloat16() for name, tensor in stored_tensors(tied).items()}
    assert_same_bits(stored_tensors(tmp_path / "new"), wanted)
    assert read_summary(tmp_path / "new").shape.tied_embeddings


def llama3_factors(factor: float) -> np.ndarray:
    """As llama.cpp's converter computes them, one frequency at a time."""
    found = []
    for j in range(8):
        wavelength = 2 * np.pi * 10000.0 ** (2 * j / 16)
        if wavelength < 8192 / 4:
            found.append(1.0)
        elif wavelength > 8192 / 1:
            found.append(factor)
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            found.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(found)


SCALED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "linear": ({"type": "linear", "factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
    "yarn": (
        {"type": "yarn", "factor": 4.0, "original_context_length": 16},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    ),
    "llama3": (
        {"factors": llama3_factors(8.0)},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    ),
    "none": ({"type": "none", "factors": np.ones(8)}, {"rope_type": "default"}),
}


@pytest.mark.parametrize("kind", SCALED)
def test_scaling_of_positions_comes_along(kind: str, model: Path, tmp_path: Path) -> None:
    """transformers' own reader drops it without a word."""
    keys, entries = SCALED[kind]
    rewrite_gguf(write(model, tmp_path / "model.gguf", **keys), tmp_path / "new")
    theirs = AutoConfig.from_pretrained(tmp_path / "new")
    assert theirs.rope_parameters == {"rope_theta": 10000.0, **entries}
    extension, rotary = read_summary(tmp_path / "new").extension, LlamaRotaryEmbedding(theirs)
    assert torch.equal(inverse_frequencies(extension, 64), rotary.inv_freq)
    assert attention_factor(extension, 64) == rotary.attention_scaling


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"type": "longrope", "factor": 4.0}, "scaling.type longrope"),
        ({"type": "yarn", "factor": 4.0, "attn_factor": 2.0}, "scaling.attn_factor=2"),
        ({"factors": np.linspace(1, 9, 8)}, "8 factors from 1 to 9"),
        ({"type": "linear", "factor": 4.0, "factors": llama3_factors(8.0)}, "linear, and a factor for each"),
    ],
)
def test_scaling_without_words_is_refused(keys: dict, message: str, model: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        rewrite_gguf(write(model, tmp_path / "model.gguf", **keys), tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_hidden_layers": 2**31}, "2,147,483,648 layers of 39 tensors"),
        ({"num_attention_heads": 0}, "required the sizes of a Llama|num_attention_heads"),
        ({"num_hidden_layers": 3}, r"only tensors of this architecture.*blk\.3\.attn_norm"),
    ],
)
def test_sizes_that_are_no_llama_s_are_named(sizes: dict, message: str, model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | sizes))
    with pytest.raises(CheckpointError, match=message):
        rewrite_gguf(write(copy, tmp_path / "model.gguf"), tmp_path / "new")


def test_other_architectures_and_damaged_files_are_refused(model: Path, tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "gpt2.gguf", "gpt2")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match=r"required llama .*given 'gpt2'"):
        rewrite_gguf(tmp_path / "gpt2.gguf", tmp_path / "new")
    whole = write(model, tmp_path / "model.gguf").read_bytes()
    for kept in (0, 3, 100, len(whole) // 2):
        (tmp_path / "cut.gguf").write_bytes(whole[:kept])
        with pytest.raises(CheckpointError, match=r"cut\.gguf: required a complete GGUF file"):
            rewrite_gguf(tmp_path / "cut.gguf", tmp_path / "new")
