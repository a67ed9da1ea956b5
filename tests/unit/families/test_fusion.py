"""The mapping table: against transformers' own names and shapes, and small literal cases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from nemo_pi.checkpoint.hf.folder import HuggingFaceWeights
from nemo_pi.checkpoint.hf.gather import stored_whole
from nemo_pi.checkpoint.hf.load import read_parts
from nemo_pi.families.fusion import fuse, reorder_heads, unfuse
from nemo_pi.families.registry import family_of
from nemo_pi.families.shape import ModelShape
from nemo_pi.families.weights import split_name
from nemo_pi.rope.channel_order import halves_from_interleaved, interleaved_from_halves

SHAPE = ModelShape(3, 64, 80, 8, 4, 16, 96)
LAYER_RULES = family_of(SHAPE).layer_rules(SHAPE)
QKV = next(rule for rule in LAYER_RULES if "linear_qkv" in rule.megatron)
GATE_UP = next(rule for rule in LAYER_RULES if "linear_fc1" in rule.megatron)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    ("family", "config", "model"),
    [("llama", LlamaConfig, LlamaForCausalLM), ("mistral", MistralConfig, MistralForCausalLM)],
)
def test_names_and_shapes_are_those_of_transformers(
    family: str, config: type, model: type, tied: bool
) -> None:
    with torch.device("meta"):
        theirs = model(
            config(
                num_hidden_layers=3,
                hidden_size=64,
                intermediate_size=80,
                num_attention_heads=8,
                num_key_value_heads=4,
                head_dim=16,
                vocab_size=96,
                tie_word_embeddings=tied,
            )
        )
    expected = {name: tuple(weight.shape) for name, weight in theirs.named_parameters()}
    shape = replace(SHAPE, family=family, tied_embeddings=tied)
    assert family_of(shape).tensors(shape) == expected


def column(*values: float) -> torch.Tensor:
    """A matrix with one column."""
    return torch.tensor(values).unsqueeze(1)


def test_qkv_rows_are_interleaved_by_group() -> None:
    shape = ModelShape(1, 1, 1, num_attention_heads=4, num_query_groups=2, head_dim=1, vocab_size=1)
    fused = fuse([column(0, 1, 2, 3), column(10, 11), column(20, 21)], QKV, shape)
    assert fused.flatten().tolist() == [0, 1, 10, 20, 2, 3, 11, 21]


def test_gate_stands_above_up() -> None:
    assert fuse([column(1, 2), column(3, 4)], GATE_UP, SHAPE).flatten().tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("rule", LAYER_RULES, ids=lambda rule: rule.megatron.split(".")[-2])
def test_unfuse_undoes_fuse(rule) -> None:
    parts = [torch.rand(sizes) for sizes in rule.sizes(SHAPE)]
    back = unfuse(fuse(parts, rule, SHAPE), rule, SHAPE)
    assert len(back) == len(parts)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(back, parts, strict=True))


@pytest.mark.parametrize("ranks", [2, 4])
def test_qkv_of_slices_is_the_slice_of_the_whole(ranks: int) -> None:
    parts = [torch.rand(sizes) for sizes in QKV.sizes(SHAPE)]
    whole = fuse(parts, QKV, SHAPE).chunk(ranks)
    for rank in range(ranks):
        assert torch.equal(fuse([part.chunk(ranks)[rank] for part in parts], QKV, SHAPE), whole[rank])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("decoder.layers.12.mlp.linear_fc2.weight", ("decoder.layers.{n}.mlp.linear_fc2.weight", 12)),
        ("module.module.decoder.final_layernorm.weight", ("decoder.final_layernorm.weight", None)),
        (
            "decoder.layers.0.self_attention.linear_qkv.layer_norm_weight",
            ("decoder.layers.{n}.input_layernorm.weight", 0),
        ),
        (
            "module.decoder.layers.1.mlp.linear_fc1.layer_norm_weight",
            ("decoder.layers.{n}.pre_mlp_layernorm.weight", 1),
        ),
    ],
)
def test_split_name(name: str, expected: tuple[str, int | None]) -> None:
    assert split_name(name) == expected


def test_export_runs_layer_by_layer() -> None:
    layers = [layer for _, layer in family_of(SHAPE).export_order(SHAPE) if layer is not None]
    assert layers == sorted(layers)
    assert set(layers) == {0, 1, 2}


def test_reordering_heads_there_and_back() -> None:
    parts = [torch.rand(sizes) for sizes in QKV.sizes(SHAPE)]
    there = reorder_heads(parts, QKV, SHAPE, interleaved_from_halves(16, 16))
    back = reorder_heads(there, QKV, SHAPE, halves_from_interleaved(16, 16))
    assert not torch.equal(there[0], parts[0])
    assert not torch.equal(there[1], parts[1])
    assert torch.equal(there[2], parts[2])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(back, parts, strict=True))


def test_reordering_moves_channels_inside_a_head_only() -> None:
    shape = ModelShape(1, 1, 1, num_attention_heads=2, num_query_groups=1, head_dim=4, vocab_size=1)
    parts = [column(0, 1, 2, 3, 10, 11, 12, 13), column(20, 21, 22, 23), column(30, 31, 32, 33)]
    query, key, value = reorder_heads(parts, QKV, shape, interleaved_from_halves(4, 4))
    # Halves pair (0, 2) and (1, 3); interleaved, each pair stands side by side.
    assert query.flatten().tolist() == [0, 2, 1, 3, 10, 12, 11, 13]
    assert key.flatten().tolist() == [20, 22, 21, 23]
    assert value.flatten().tolist() == [30, 31, 32, 33]


def test_a_rank_reads_its_rows_of_a_tensor_that_holds_several_parts(tmp_path: Path) -> None:
    """Gate above up in one tensor: each rank takes half of either, and the halves make the whole again."""
    rule = replace(GATE_UP, huggingface=("both.weight",) * 2)
    both = torch.rand(2 * SHAPE.ffn_hidden_size, SHAPE.hidden_size)
    save_file({"both.weight": both}, tmp_path / "model.safetensors")
    weights = HuggingFaceWeights(tmp_path)
    ranks = [read_parts(weights, rule, None, SHAPE, rank, 2) for rank in range(2)]
    gate, up = both.chunk(2)
    for rank, parts in enumerate(ranks):
        assert torch.equal(fuse(parts, rule, SHAPE), torch.cat([gate.chunk(2)[rank], up.chunk(2)[rank]]))
    assert rule.tensors(SHAPE, None) == {"both.weight": tuple(both.shape)}
    (whole,) = stored_whole([unfuse(fuse(parts, rule, SHAPE), rule, SHAPE) for parts in ranks], rule, SHAPE)
    assert torch.equal(whole, both)
