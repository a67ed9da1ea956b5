"""Every family against transformers on the same folder: logits, export bits, and the way back.

Shape legend: B batch, S sequence, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, PreTrainedModel

from nemo_pi.checkpoint.files import read_json
from nemo_pi.checkpoint.hf.load import located_parameters
from nemo_pi.checkpoint.hf.save import export_huggingface
from nemo_pi.checkpoint.summary import read_source_config, read_summary
from nemo_pi.families.fusion import unfuse
from nemo_pi.families.registry import family_of, names
from nemo_pi.families.shape import ModelShape
from nemo_pi.model.gpt import RotaryGPTModel
from tests.unit.checkpoint.models import assert_same_bits, stored_tensors
from tests.unit.model.models import (
    WINDOW,
    ExactRotary,
    causal_logits,
    forward,
    ours_from,
    random_tokens,
    transformers_model,
)
from tests.unit.rope.peers import Peer, make_spec

pytestmark = pytest.mark.usefixtures("one_rank")

TARGET = 8 * WINDOW
# Sizes of 4 layers; the families' own switches beside them.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tie_word_embeddings": True, "num_key_value_heads": 4},
    "one group": {"num_key_value_heads": 1, "num_hidden_layers": 3, "rms_norm_eps": 1e-2},
    "wide heads": {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 24, "vocab_size": 97},
    "narrow heads": {"num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 8, "hidden_size": 48},
}
QWEN_WINDOWS: dict[str, dict[str, Any]] = {
    "upper layers slide": {
        "use_sliding_window": True,
        "sliding_window": 7,
        "max_window_layers": 1,
        "num_hidden_layers": 3,
    },
    "named layers slide": {
        "use_sliding_window": True,
        "sliding_window": 5,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "num_hidden_layers": 3,
    },
    "all layers slide": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 0},
    "a window that is not used": {"use_sliding_window": False, "sliding_window": 5, "max_window_layers": 0},
}
SMOLLM_LAYERS: dict[str, dict[str, Any]] = {
    "named layers are not rotated": {"num_hidden_layers": 3, "no_rope_layers": [0, 1, 0, 1]},
    "layers that are not rotated slide": {
        "num_hidden_layers": 3,
        "use_sliding_window": True,
        "sliding_window": 7,
    },
    "other layers slide": {
        "num_hidden_layers": 3,
        "use_sliding_window": True,
        "sliding_window": 5,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
}
# What a family's variants have besides; a window or an interval that these few layers show.
ALWAYS: dict[str, dict[str, Any]] = {"smollm3": {"no_rope_layer_interval": 2}}
OWN: dict[str, dict[str, dict[str, Any]]] = {
    "llama": {},
    "mistral": {"slides": {"sliding_window": 7}, "does not slide": {"sliding_window": None}},
    "qwen2": QWEN_WINDOWS,
    "qwen3": QWEN_WINDOWS,
    "smollm3": SMOLLM_LAYERS,
    "ministral3": {"slides": {"sliding_window": 7}},
}
CASES = [
    pytest.param(family, ALWAYS.get(family, {}) | settings, id=f"{family}: {name}")
    for family, own in OWN.items()
    for name, settings in (VARIANTS | own).items()
]
SCALED = [
    pytest.param(*case.values, method, id=f"{case.id}, {method}")
    for case in CASES
    for method in ("none", "linear", "yarn")
    if method == "none" or case.id.split(": ")[1] in VARIANTS  # windows do not depend on the method
]


def scaling(family: str, method: str) -> dict[str, Any]:
    """Entries of transformers' configuration, from WINDOW to TARGET."""
    spec = make_spec(method, original_window=WINDOW, target_window=TARGET, head_dim=16)
    rope = Peer(spec).rope_parameters
    if family == "ministral3":
        rope |= {"llama_4_scaling_beta": 0.3, "original_max_position_embeddings": WINDOW}
    return {"rope_parameters": rope, "max_position_embeddings": spec.target_window}


def test_no_family_is_left_out() -> None:
    assert set(OWN) == set(names())


def far_positions(rows: int, length: int) -> Tensor:
    """Rising positions [B, S] with gaps, from inside the original window to 100 times beyond the target."""
    ends = torch.tensor([[WINDOW], [100 * TARGET]])[:rows]
    steps = torch.rand(rows, length, generator=torch.Generator().manual_seed(5)).cumsum(dim=1)
    return (steps / steps[:, -1:] * (ends - 1)).long()


def saved(folder: Path, family: str, settings: dict[str, Any]) -> PreTrainedModel:
    model = transformers_model(family, **settings)
    model.save_pretrained(folder)
    model.model.rotary_emb = ExactRotary(model.model.rotary_emb)
    return model


def ours(folder: Path) -> RotaryGPTModel:
    """Built from what the folder says of itself, and from nothing else."""
    summary = read_summary(folder)
    return ours_from(folder, summary.extension, shape=summary.shape)


@pytest.mark.parametrize(("family", "settings", "method"), SCALED)
def test_logits_equal_transformers(family: str, settings: dict, method: str, tmp_path: Path) -> None:
    """Positions from the original window to a hundred times the target, in one row each."""
    model = saved(tmp_path, family, {**settings, **scaling(family, method)})
    tokens_BS = random_tokens(length=40)
    positions_BS = far_positions(*tokens_BS.shape)
    with torch.no_grad():
        theirs_BSV = causal_logits(model, tokens_BS, positions_BS)
        ours_BSV = forward(ours(tmp_path), tokens_BS, positions_BS)
    assert theirs_BSV.std() > 0.3
    torch.testing.assert_close(ours_BSV, theirs_BSV, rtol=1e-4, atol=2e-4)


def gradients(model: RotaryGPTModel, shape: ModelShape) -> dict[str, Tensor]:
    """Of every parameter, as parts under Hugging Face's names."""
    found: dict[str, Tensor] = {}
    for (_, rule, layer), weight in zip(located_parameters([model], shape), model.parameters(), strict=True):
        assert weight.grad is not None, rule.megatron
        found.update(zip(rule.names(layer), unfuse(weight.grad, rule, shape), strict=True))
    return found


@pytest.mark.parametrize("groups", [1, 2, 4])  # with 4, rotation works in place of the projection's output
@pytest.mark.parametrize("family", names())
def test_gradients_equal_transformers(family: str, groups: int, tmp_path: Path) -> None:
    settings = {**ALWAYS.get(family, {}), "num_key_value_heads": groups}
    model = saved(tmp_path, family, {**settings, **scaling(family, "linear")})
    summary = read_summary(tmp_path)
    copy = ours_from(tmp_path, summary.extension, shape=summary.shape)
    tokens_BS, labels_BS = random_tokens(length=40), random_tokens(length=40, seed=1)
    positions_BS = far_positions(*tokens_BS.shape)
    logits_BSV = causal_logits(model, tokens_BS, positions_BS)
    cross_entropy(logits_BSV.flatten(0, 1), labels_BS.flatten(), reduction="sum").backward()
    forward(copy, tokens_BS, positions_BS, labels_BS).sum().backward()
    ours_by_name = gradients(copy, summary.shape)
    assert set(ours_by_name) == {name for name, _ in model.named_parameters()}
    for name, weight in model.named_parameters():
        assert weight.grad is not None
        error = (ours_by_name[name] - weight.grad).norm() / weight.grad.norm()
        assert error < 1e-4, f"{name} differs by {error:.1e}"


@pytest.mark.parametrize("with_source", [True, False])
@pytest.mark.parametrize(("family", "settings"), CASES)
def test_exports_bits_and_transformers_reads_them(
    family: str, settings: dict, with_source: bool, tmp_path: Path
) -> None:
    model = saved(tmp_path / "in", family, settings)
    summary = read_summary(tmp_path / "in")
    source = read_source_config(tmp_path / "in") if with_source else None
    chunks = [ours(tmp_path / "in")]
    export_huggingface(chunks, summary.shape, summary.extension, tmp_path / "out", source_config=source)
    assert_same_bits(stored_tensors(tmp_path / "out"), stored_tensors(tmp_path / "in"))
    assert read_summary(tmp_path / "out").shape == summary.shape
    if with_source:
        assert read_json(tmp_path / "out" / "config.json") == read_json(tmp_path / "in" / "config.json")
    again, loading = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(loading.values()), loading
    tokens_BS = random_tokens()
    with torch.no_grad():
        torch.testing.assert_close(
            causal_logits(again, tokens_BS), causal_logits(model, tokens_BS), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize(("family", "settings"), CASES)
def test_counts_are_transformers(family: str, settings: dict, tmp_path: Path) -> None:
    model = transformers_model(family, **settings)
    model.save_pretrained(tmp_path)
    shape = read_summary(tmp_path).shape
    assert family_of(shape).num_parameters(shape) == model.num_parameters()
    expected = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    assert family_of(shape).tensors(shape) == expected


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_an_interleaved_copy_computes_the_same_and_returns_the_bits(family: str, tmp_path: Path) -> None:
    """Biases and norms are reordered with the rows that they belong to."""
    model = saved(tmp_path / "in", family, {})
    summary = read_summary(tmp_path / "in")
    turned = make_spec("none", original_window=WINDOW, target_window=WINDOW, head_dim=16, interleaved=True)
    copy, tokens_BS = ours_from(tmp_path / "in", turned, shape=summary.shape), random_tokens()
    with torch.no_grad():
        ours_BSV, theirs_BSV = forward(copy, tokens_BS), causal_logits(model, tokens_BS)
    torch.testing.assert_close(ours_BSV, theirs_BSV, rtol=1e-4, atol=1e-4)
    export_huggingface([copy], summary.shape, turned, tmp_path / "out")
    assert_same_bits(stored_tensors(tmp_path / "out"), stored_tensors(tmp_path / "in"))


def swap(attention: Any, what: str) -> None:
    """Query's and key's own change places."""
    query, key = (getattr(attention, f"{letter}_{what}") for letter in "qk")
    for one, other in zip(query.parameters(), key.parameters(), strict=True):
        one.data, other.data = other.data.clone(), one.data.clone()


FAULTS: dict[str, tuple[str, Callable[[Any], None]]] = {
    "query and key swapped": ("qwen2", lambda attention: swap(attention, "proj")),
    "a bias dropped": ("qwen2", lambda attention: attention.k_proj.bias.data.zero_()),
    "norms swapped": ("qwen3", lambda attention: swap(attention, "norm")),
    "a norm dropped": ("qwen3", lambda attention: attention.k_norm.weight.data.fill_(1.0)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_comparison_notices(fault: str, tmp_path: Path) -> None:
    family, plant = FAULTS[fault]
    model = saved(tmp_path, family, {"num_key_value_heads": 4})
    for layer in model.model.layers:
        plant(layer.self_attn)
    with torch.no_grad():
        tokens_BS = random_tokens()
        difference = forward(ours(tmp_path), tokens_BS) - causal_logits(model, tokens_BS)
    assert difference.abs().max() > 0.05
