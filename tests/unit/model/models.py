"""Tiny models for the tests of model/ and training/: transformers' own, and ours with their weights."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, PreTrainedModel

from nemo_pi.checkpoint.hf.load import load_huggingface
from nemo_pi.families.shape import ModelShape
from nemo_pi.model.build import BuildOptions, build_model_chunks
from nemo_pi.model.gpt import RotaryGPTModel
from nemo_pi.parallel.cpu_shim import cpu_shim
from nemo_pi.parallel.layout import ParallelLayout
from nemo_pi.rope.spec import ContextExtension
from tests.unit.families.unshipped import STAND_INS

WINDOW = 64
"""Original window of the tiny models, in tokens."""

SHAPE = ModelShape(
    num_layers=2,
    hidden_size=64,
    ffn_hidden_size=80,
    num_attention_heads=4,
    num_query_groups=2,
    head_dim=16,
    vocab_size=96,
)


def plain(window: int = WINDOW, **changes: Any) -> ContextExtension:
    """Unscaled rotary positions for SHAPE."""
    return ContextExtension.unscaled(window, SHAPE.head_dim, **changes)


def transformers_model(family: str = "llama", **settings: Any) -> PreTrainedModel:
    """A random model of SHAPE in fp32, with weights large enough for positions to matter."""
    sizes = {
        "vocab_size": SHAPE.vocab_size,
        "hidden_size": SHAPE.hidden_size,
        "intermediate_size": SHAPE.ffn_hidden_size,
        "num_hidden_layers": SHAPE.num_layers,
        "num_attention_heads": SHAPE.num_attention_heads,
        "num_key_value_heads": SHAPE.num_query_groups,
        "head_dim": SHAPE.head_dim,
        "rms_norm_eps": SHAPE.norm_epsilon,
        "max_position_embeddings": WINDOW,
        "initializer_range": 0.15,
        "tie_word_embeddings": False,
        "attn_implementation": "eager",
        "pad_token_id": None,  # transformers would give that row of the embedding no gradient
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if family in ("phi", "gpt_neox", "gptj", "stablelm", "nemotron"):
        # What such a class has no name for it may take for something else.
        kind = CONFIG_MAPPING[family]
        known = {field.name for field in fields(kind)} | {*kind.attribute_map, "attn_implementation"}
        sizes = {key: value for key, value in sizes.items() if key in known}
    torch.manual_seed(11)
    config = AutoConfig.for_model(STAND_INS.get(family, family), **{**sizes, **settings})
    model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "ln_" in name:
                parameter.uniform_(0.5, 1.5)
            elif "bias" in name:
                parameter.normal_(std=0.5)
    return model.eval()


class ExactRotary(nn.Module):
    """transformers' frequencies turned into cosines and sines in float64, where its own fp32 angles drift."""

    def __init__(self, rotary: nn.Module) -> None:
        super().__init__()
        self.rotary = rotary

    def forward(
        self, x: Tensor, position_ids: Tensor, layer_type: str | None = None
    ) -> tuple[Tensor, Tensor]:
        kind = () if layer_type is None else (layer_type,)
        self.rotary(x, position_ids, *kind)  # methods that depend on length choose their frequencies here
        inverse, scale = (
            getattr(self.rotary, "_".join((*kind, name))) for name in ("inv_freq", "attention_scaling")
        )
        angle = position_ids[..., None].double() * inverse.double()
        angle = torch.cat((angle, angle), dim=-1)
        return (angle.cos() * scale).to(x.dtype), (angle.sin() * scale).to(x.dtype)


def causal_logits(model: PreTrainedModel, tokens_BS: Tensor, positions_BS: Tensor | None = None) -> Tensor:
    """Logits [B, S, V] under a causal mask that is given, so that gaps in positions split nothing."""
    mask_BS = torch.ones_like(tokens_BS)
    return model(tokens_BS, attention_mask=mask_BS, position_ids=positions_BS, use_cache=False).logits


def build(
    shape: ModelShape = SHAPE,
    extension: ContextExtension | None = None,
    options: BuildOptions | None = None,
) -> RotaryGPTModel:
    """Our model on one rank, with random weights."""
    with cpu_shim():
        chunks = build_model_chunks(shape, extension or plain(), ParallelLayout(), options or BuildOptions())
    return chunks[0]


def ours_from(
    folder: Path,
    extension: ContextExtension | None = None,
    *,
    shape: ModelShape = SHAPE,
    options: BuildOptions | None = None,
    reorder: bool = True,
) -> RotaryGPTModel:
    """Our model with the weights of a Hugging Face folder.

    Args:
        reorder: whether an interleaved model gets heads stored as halves reordered; no where the folder's
            own model interleaves.
    """
    model = build(shape, extension, options)
    load_huggingface([model], folder, shape, extension=extension if reorder else None)
    return model.eval()


def forward(
    model: nn.Module,
    tokens_BS: Tensor,
    positions_BS: Tensor | None = None,
    labels_BS: Tensor | None = None,
    documents: Any = None,
) -> Tensor:
    """Logits [B, S, V], or per-token losses [B, S] where labels are given."""
    if positions_BS is None:
        positions_BS = torch.arange(tokens_BS.size(1)).expand_as(tokens_BS)
    with cpu_shim():
        return model(
            input_ids=tokens_BS,
            position_ids=positions_BS,
            attention_mask=None,
            labels=labels_BS,
            packed_seq_params=documents,
        )


def random_tokens(rows: int = 2, length: int = 24, seed: int = 0) -> Tensor:
    """Token ids [rows, length]."""
    return torch.randint(0, SHAPE.vocab_size, (rows, length), generator=torch.Generator().manual_seed(seed))


def as_llama(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights under Llama's names: fused projections of Phi-3 and GLM are split."""
    llama = transformers_model()
    heads, groups = SHAPE.num_attention_heads * SHAPE.head_dim, SHAPE.num_query_groups * SHAPE.head_dim
    state = {}
    for name, value in model.state_dict().items():
        if "qkv_proj" in name:
            parts = zip("qkv", value.split([heads, groups, groups]), strict=True)
            state.update({name.replace("qkv_proj", f"{letter}_proj"): part for letter, part in parts})
        elif "gate_up_proj" in name:
            parts = zip(("gate", "up"), value.chunk(2), strict=True)
            state.update({name.replace("gate_up_proj", f"{part}_proj"): rows for part, rows in parts})
        else:
            state[name] = value
    llama.load_state_dict(state)
    return llama
