"""Folders of families that transformers has no class for, made of a Llama's as published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from nemo_pi.checkpoint.files import read_json, write_json

Tensors = dict[str, Tensor]
STAND_INS = {"baichuan": "llama", "internlm2": "llama"}
"""Families that transformers has no class for, and the one that computes the same."""


def saved_as(folder: Path, family: str) -> Path:
    """Rewrites a Llama's folder as one of the family; folders of other families stay as they are."""
    if family in _FAMILIES:
        repack, respell = _FAMILIES[family]
        config = read_json(folder / "config.json")
        file = folder / "model.safetensors"
        save_file(repack(load_file(file), config), file, metadata={"format": "pt"})
        write_json(folder / "config.json", respell(config))
    return folder


def _as_baichuan(tensors: Tensors, config: dict[str, Any]) -> Tensors:
    """W_pack: query, key and value on top of each other."""
    packed = {name: tensor for name, tensor in tensors.items() if not name.endswith(QKV)}
    for layer in range(config["num_hidden_layers"]):
        start = f"model.layers.{layer}.self_attn."
        packed[f"{start}W_pack.weight"] = torch.cat([tensors[start + end] for end in QKV])
    return packed


def _as_internlm2(tensors: Tensors, config: dict[str, Any]) -> Tensors:
    """wqkv: of each group its queries, its key, its value; and other names for nearly everything."""
    renamed = {}
    for name, tensor in tensors.items():
        for old, new in _INTERNLM2.items():
            name = name.replace(old, new)
        if not name.endswith(QKV):
            renamed[name] = tensor
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    for layer in range(config["num_hidden_layers"]):
        q, k, v = (tensors[f"model.layers.{layer}.self_attn.{end}"] for end in QKV)
        head_dim, rows = q.shape[0] // heads, []
        for group in range(groups):
            first = group * heads // groups
            rows.append(q[first * head_dim : (first + heads // groups) * head_dim])
            rows += [x[group * head_dim : (group + 1) * head_dim] for x in (k, v)]
        renamed[f"model.layers.{layer}.attention.wqkv.weight"] = torch.cat(rows)
    return renamed


def _baichuan_config(config: dict[str, Any]) -> dict[str, Any]:
    """Keys and values as in Baichuan-7B's folder."""
    kept = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size")
    kept += ("rms_norm_eps", "max_position_embeddings", "initializer_range", "bos_token_id", "eos_token_id")
    return {
        "architectures": ["BaiChuanForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_baichuan.BaiChuanConfig",
            "AutoModelForCausalLM": "modeling_baichuan.BaiChuanForCausalLM",
        },
        "model_type": "baichuan",
        "hidden_act": "silu",
        "pad_token_id": 0,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_cache": True,
        **{key: config[key] for key in kept},
    }


def _internlm2_config(config: dict[str, Any]) -> dict[str, Any]:
    """Keys and values as in InternLM2-7B's folder."""
    kept = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size")
    kept += ("rms_norm_eps", "max_position_embeddings", "initializer_range", "bos_token_id", "eos_token_id")
    kept += ("num_key_value_heads", "tie_word_embeddings")
    rope = config["rope_parameters"]
    spelled: dict[str, Any] = {"rope_theta": rope["rope_theta"], "rope_scaling": None}
    if rope["rope_type"] != "default":
        spelled["rope_scaling"] = {"type": rope["rope_type"], "factor": rope["factor"]}
    return {
        "architectures": ["InternLM2ForCausalLM"],
        "attn_implementation": "eager",
        "auto_map": {
            "AutoConfig": "configuration_internlm2.InternLM2Config",
            "AutoModelForCausalLM": "modeling_internlm2.InternLM2ForCausalLM",
        },
        "bias": False,
        "model_type": "internlm2",
        "hidden_act": "silu",
        "torch_dtype": "float32",
        "use_cache": True,
        **{key: config[key] for key in kept},
        **spelled,
    }


QKV = ("q_proj.weight", "k_proj.weight", "v_proj.weight")
_INTERNLM2 = {
    "embed_tokens": "tok_embeddings",
    "lm_head": "output",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}
_FAMILIES: dict[str, tuple[Callable[..., Tensors], Callable[..., dict[str, Any]]]] = {
    "baichuan": (_as_baichuan, _baichuan_config),
    "internlm2": (_as_internlm2, _internlm2_config),
}
