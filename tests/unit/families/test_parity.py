"""Every family against transformers on the same folder: logits, export bits, and the way back.

Shape legend: B batch, S sequence, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, PreTrainedModel

from nemo_pi.checkpoint.files import read_json
from nemo_pi.checkpoint.hf.gather import stored_whole
from nemo_pi.checkpoint.hf.load import located_parameters
from nemo_pi.checkpoint.hf.save import export_huggingface
from nemo_pi.checkpoint.summary import read_source_config, read_summary
from nemo_pi.families.fusion import unfuse
from nemo_pi.families.inert import without_code
from nemo_pi.families.registry import family_of, names
from nemo_pi.families.shape import ModelShape
from nemo_pi.model.gpt import RotaryGPTModel
from tests.unit.checkpoint.models import assert_same_bits, stored_tensors
from tests.unit.families.unshipped import saved_as
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
BY_KIND = ("olmo3", "gemma3_text")
"""Families whose sliding layers have rotary embeddings of their own."""
KINDS: dict[str, dict[str, Any]] = {
    "three of four slide": {"num_hidden_layers": 4, "layer_types": None, "sliding_window": 7},
    "all slide": {"layer_types": ["sliding_attention"] * 2, "sliding_window": 5},
    "none slides": {"layer_types": ["full_attention"] * 2},
}
MULTIPLIED = {
    "embedding_multiplier": 6.0,
    "attention_multiplier": 0.4,
    "residual_multiplier": 0.3,
    "logits_scaling": 2.5,
}
OWN: dict[str, dict[str, dict[str, Any]]] = {
    "llama": {},
    "mistral": {"slides": {"sliding_window": 7}, "does not slide": {"sliding_window": None}},
    "qwen2": QWEN_WINDOWS,
    "qwen3": QWEN_WINDOWS,
    "smollm3": SMOLLM_LAYERS,
    "ministral3": {"slides": {"sliding_window": 7}},
    "phi3": {
        "slides": {"sliding_window": 7},
        "half rotated": {"partial_rotary_factor": 0.5},
        "tied, rotated in part, slides": {
            "partial_rotary_factor": 0.75,
            "tie_word_embeddings": True,
            "sliding_window": 9,
        },
    },
    "granite": {
        "multiplied": MULTIPLIED,
        "multiplied and tied": {**MULTIPLIED, "tie_word_embeddings": True, "embedding_multiplier": 0.5},
    },
    "olmo2": {},
    "olmo3": KINDS,
    "gemma3_text": {
        **KINDS,
        "three of four slide": {**KINDS["three of four slide"], "sliding_window_pattern": 4},
        "scores divided as with other heads": {"query_pre_attn_scalar": 168},
    },
    "glm4": {
        "without biases": {"attention_bias": False},
        "a quarter rotated": {"partial_rotary_factor": 0.25, "num_key_value_heads": 4},
        "whole heads": {"partial_rotary_factor": 1.0, "tie_word_embeddings": True},
    },
    "baichuan": {},
    "internlm2": {},
}
SIZED: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tie_word_embeddings": True, "layer_norm_eps": 1e-2},
    "wide heads": {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 97},
    "narrow heads, wide MLP": {
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "hidden_size": 96,
        "intermediate_size": 208,
    },
}
OTHERS: dict[str, dict[str, dict[str, Any]]] = {
    "phi": {
        "one group": {"num_key_value_heads": 1, "num_hidden_layers": 3},
        "norms of heads": {"qk_layernorm": True, "tie_word_embeddings": True},
        "another activation": {"hidden_act": "gelu"},
    },
    "gpt_neox": {
        "one after the other": {"use_parallel_residual": False, "hidden_act": "gelu_fast"},
        "no biases of attention": {"attention_bias": False, "num_hidden_layers": 3},
        "neither": {"attention_bias": False, "use_parallel_residual": False, "tie_word_embeddings": True},
    },
    "gptj": {
        "whole heads": {"rotary_dim": 16, "n_inner": 80},
        "hardly rotated": {"rotary_dim": 4, "layer_norm_epsilon": 1e-2, "num_hidden_layers": 3},
        "another activation": {"activation_function": "gelu"},
    },
    "stablelm": {
        "biases": {"use_qkv_bias": True, "num_key_value_heads": 1},
        "beside each other": {"use_parallel_residual": True, "num_hidden_layers": 3},
        "both": {"use_parallel_residual": True, "use_qkv_bias": True, "hidden_act": "gelu_pytorch_tanh"},
    },
    "nemotron": {
        "biases of attention": {"attention_bias": True, "num_key_value_heads": 1},
        "biases of the MLP": {"mlp_bias": True, "head_dim": 24, "norm_eps": 1e-2},
        "all biases": {"attention_bias": True, "mlp_bias": True, "hidden_act": "gelu"},
    },
}
"""Families of other layers than Llama's, which have other words for what VARIANTS changes."""
OWN |= OTHERS
# What a family's own class or its config.json has no words for.
CANNOT: dict[str, set[str]] = {
    "baichuan": {"num_key_value_heads", "head_dim", "tie_word_embeddings"},
    "internlm2": {"head_dim"},
    "phi3": {"head_dim"},  # beside LongRoPE's lists
}
ALWAYS: dict[str, dict[str, Any]] = {
    "smollm3": {"no_rope_layer_interval": 2},
    "baichuan": {"num_key_value_heads": 4},
    "glm4": {"partial_rotary_factor": 0.5},
    "phi": {"partial_rotary_factor": 0.5},
    "gpt_neox": {"partial_rotary_factor": 0.25},
    "gptj": {"rotary_dim": 8},
    "stablelm": {"partial_rotary_factor": 0.25},
    "nemotron": {"partial_rotary_factor": 0.5},
    "olmo3": {"sliding_window": 9},
    "gemma3_text": {"sliding_window": 9, "query_pre_attn_scalar": 16},
}
"""Settings of every case of a family."""
_EIGHT_HEADS = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 8, "vocab_size": 97}
_ONE_HEAD = {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 64}
MORE: dict[str, dict[str, dict[str, Any]]] = {
    "baichuan": {
        "more heads": {**_EIGHT_HEADS, "num_key_value_heads": 8},
        "one head": _ONE_HEAD,
        "other norms": {"rms_norm_eps": 1e-2, "hidden_size": 32, "head_dim": 8, "num_hidden_layers": 3},
        "wide MLP": {"intermediate_size": 176},
    },
    "internlm2": {"more heads": _EIGHT_HEADS, "one head": _ONE_HEAD},
    "phi3": {"more heads": _EIGHT_HEADS},
}
WINDOWED = {*QWEN_WINDOWS, *SMOLLM_LAYERS, *KINDS, "slides", "does not slide"}
METHODS: dict[str, tuple[str, ...]] = {
    "gptj": ("none",),
    "phi3": ("none", "longrope"),
    "baichuan": ("none",),
    "internlm2": ("none", "linear"),
}
"""Those that a family's own config.json can say."""


def variants(family: str) -> dict[str, dict[str, Any]]:
    """Settings of a family's cases by name."""
    sizes = SIZED if family in OTHERS else VARIANTS
    common = {
        name: settings for name, settings in sizes.items() if not CANNOT.get(family, set()) & set(settings)
    }
    every = common | OWN[family] | MORE.get(family, {})
    found = {name: {**ALWAYS.get(family, {}), **settings} for name, settings in every.items()}
    for settings in found.values() if family in BY_KIND else ():
        kinds = ["sliding_attention", "full_attention"] * 2
        settings.setdefault("layer_types", kinds[: settings.get("num_hidden_layers", 2)])
    return found


def scaled(family: str, settings: dict[str, Any], method: str) -> dict[str, Any]:
    """The same model read eight times as far, by transformers' own entries."""
    spec = make_spec(
        method,
        original_window=WINDOW,
        target_window=TARGET,
        head_dim=settings.get("head_dim", 16),
        rotary_percent=settings.get("partial_rotary_factor", 1.0),
    )
    rope = Peer(spec).rope_parameters
    if family == "ministral3":
        rope |= {"llama_4_scaling_beta": 0.3, "original_max_position_embeddings": WINDOW}
    if family == "gptj":
        return {**settings, "max_position_embeddings": TARGET}  # its class has no rotary entries
    if family in BY_KIND:
        both, own = method == "yarn", {"rope_theta": 500.0}
        rope = {
            "full_attention": rope,
            "sliding_attention": {**(rope if both else {"rope_type": "default"}), **own},
        }
    peer = {"rope_parameters": rope, "max_position_embeddings": spec.target_window}
    if method == "longrope":
        peer["original_max_position_embeddings"] = WINDOW
    return {**settings, **peer}


CASES = [
    pytest.param(family, settings, id=f"{family}: {name}")
    for family in OWN
    for name, settings in variants(family).items()
]
SCALED = [
    pytest.param(*case.values, method, id=f"{case.id}, {method}")
    for case in CASES
    for method in METHODS.get(case.values[0], ("none", "linear", "yarn"))
    # Windows do not depend on the method, nor do kinds of layers.
    if method == "none" or case.id.split(": ")[1] not in WINDOWED | set(OTHERS.get(case.values[0], ()))
]


def test_no_family_is_left_out() -> None:
    assert set(OWN) == set(names())


def far_positions(rows: int, length: int) -> Tensor:
    """Rising positions [B, S] with gaps, from inside the original window to 100 times beyond the target."""
    ends = torch.tensor([[WINDOW], [100 * TARGET]])[:rows]
    steps = torch.rand(rows, length, generator=torch.Generator().manual_seed(5)).cumsum(dim=1)
    return (steps / steps[:, -1:] * (ends - 1)).long()


def rotate_exactly(gptj: Any) -> None:
    """GPT-J's tables in float64 and as long as any test; its own end with the window."""
    dim = gptj.config.rotary_dim
    inverse = 1.0 / (10000 ** (torch.arange(0, dim, 2) / dim))
    angle = torch.arange(100 * TARGET, dtype=torch.float64)[:, None] * inverse.double()
    for block in gptj.transformer.h:
        block.attn.embed_positions = torch.cat((angle.sin(), angle.cos()), dim=1).float()


def saved(folder: Path, family: str, settings: dict[str, Any]) -> PreTrainedModel:
    model = transformers_model(family, **settings)
    model.save_pretrained(folder)
    saved_as(folder, family)
    if family == "gptj":
        rotate_exactly(model)
    else:
        model.base_model.rotary_emb = ExactRotary(model.base_model.rotary_emb)
    return model


def ours(folder: Path) -> RotaryGPTModel:
    """Built from what the folder says of itself, and from nothing else."""
    summary = read_summary(folder)
    return ours_from(folder, summary.extension, shape=summary.shape)


@pytest.mark.parametrize(("family", "settings", "method"), SCALED)
def test_logits_equal_transformers(family: str, settings: dict, method: str, tmp_path: Path) -> None:
    """Positions from the original window to a hundred times the target, in one row each."""
    model = saved(tmp_path, family, scaled(family, settings, method))
    tokens_BS = random_tokens(length=40)
    positions_BS = far_positions(*tokens_BS.shape)
    with torch.no_grad():
        theirs_BSV = causal_logits(model, tokens_BS, positions_BS)
        ours_BSV = forward(ours(tmp_path), tokens_BS, positions_BS)
    assert theirs_BSV.std() > 0.3
    torch.testing.assert_close(ours_BSV, theirs_BSV, rtol=1e-4, atol=2e-4)


def in_transformers(shape: ModelShape) -> ModelShape:
    """The model as transformers has it: as a Llama where its family is not shipped."""
    family = family_of(shape)
    return family.same_function(shape)[0] if family.remote_code else shape


def as_stored(family: str, name: str) -> str:
    """The name that transformers gives a parameter in a file."""
    return name.replace("lm_head", "embed_out") if family == "gpt_neox" else name


def gradients(model: RotaryGPTModel, shape: ModelShape) -> dict[str, Tensor]:
    """Of every parameter, as tensors under the names of transformers' class."""
    found: dict[str, Tensor] = {}
    form = in_transformers(shape)
    rules = {rule.megatron: rule for rule in family_of(form).rules(form)}
    for (_, own, layer), weight in zip(located_parameters([model], shape), model.parameters(), strict=True):
        assert weight.grad is not None, own.megatron
        rule = rules[own.megatron]
        whole = stored_whole([unfuse(weight.grad, rule, form)], rule, form)
        found.update(zip(dict.fromkeys(rule.names(layer)), whole, strict=True))
    return found


# With 4 groups, rotation works in place of the projection's output.
GRADIENTS = [
    pytest.param(
        family, {**variants(family)["plain"], "num_key_value_heads": groups}, id=f"{family}: {groups}"
    )
    for family in OWN
    for groups in (1, 2, 4)
    if family not in OTHERS and (groups == 4 or "num_key_value_heads" not in CANNOT.get(family, set()))
] + [case for case in CASES if case.values[0] in OTHERS]


@pytest.mark.parametrize(("family", "settings"), GRADIENTS)
def test_gradients_equal_transformers(family: str, settings: dict, tmp_path: Path) -> None:
    model = saved(tmp_path, family, scaled(family, settings, METHODS.get(family, ("linear",))[-1]))
    summary = read_summary(tmp_path)
    copy = ours_from(tmp_path, summary.extension, shape=summary.shape)
    tokens_BS, labels_BS = random_tokens(length=40), random_tokens(length=40, seed=1)
    positions_BS = far_positions(*tokens_BS.shape)
    logits_BSV = causal_logits(model, tokens_BS, positions_BS)
    cross_entropy(logits_BSV.flatten(0, 1), labels_BS.flatten(), reduction="sum").backward()
    forward(copy, tokens_BS, positions_BS, labels_BS).sum().backward()
    ours_by_name = gradients(copy, summary.shape)
    theirs_by_name = {as_stored(family, name): weight for name, weight in model.named_parameters()}
    assert set(ours_by_name) == set(theirs_by_name)
    for name, weight in theirs_by_name.items():
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
    chunks, known = [ours(tmp_path / "in")], (summary.shape, summary.extension)
    own = family_of(summary.shape)
    export_huggingface(chunks, *known, tmp_path / "own", source_config=source, architecture=own.architecture)
    assert_same_bits(stored_tensors(tmp_path / "own"), stored_tensors(tmp_path / "in"))
    assert read_summary(tmp_path / "own").shape == summary.shape
    if with_source:
        given = without_code(read_json(tmp_path / "in" / "config.json"))
        assert read_json(tmp_path / "own" / "config.json") == given
    folder = tmp_path / "own"
    if own.remote_code:
        folder = tmp_path / "shipped"
        export_huggingface(chunks, *known, folder, source_config=source)
        assert_same_bits(
            stored_tensors(folder), {name: weight.detach() for name, weight in model.named_parameters()}
        )
    again, loading = AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager"
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
    saved_as(tmp_path, family)
    shape = read_summary(tmp_path).shape
    assert family_of(shape).num_parameters(shape) == model.num_parameters()
    expected = {as_stored(family, name): tuple(weight.shape) for name, weight in model.named_parameters()}
    form = in_transformers(shape)
    assert family_of(form).tensors(form) == expected
    stored = {name: tuple(tensor.shape) for name, tensor in stored_tensors(tmp_path).items()}
    assert family_of(shape).tensors(shape) == stored


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


@pytest.mark.parametrize("family", ["gpt_neox", "gptj", "phi", "internlm2"])
def test_another_order_of_channels_computes_the_same_and_returns_the_bits(
    family: str, tmp_path: Path
) -> None:
    """Parts of heads; query and key that share a tensor; norms and biases that follow them."""
    settings = {"qk_layernorm": True} if family == "phi" else {}
    saved(tmp_path / "in", family, {**ALWAYS.get(family, {}), **settings})
    summary = read_summary(tmp_path / "in")
    turned = replace(summary.extension, interleaved=not summary.extension.interleaved)
    copy, tokens_BS = ours_from(tmp_path / "in", turned, shape=summary.shape), random_tokens()
    with torch.no_grad():
        theirs_BSV, ours_BSV = forward(ours(tmp_path / "in"), tokens_BS), forward(copy, tokens_BS)
    torch.testing.assert_close(ours_BSV, theirs_BSV, rtol=1e-4, atol=1e-4)
    own = family_of(summary.shape).architecture
    export_huggingface([copy], summary.shape, turned, tmp_path / "out", architecture=own)
    assert_same_bits(stored_tensors(tmp_path / "out"), stored_tensors(tmp_path / "in"))


@pytest.mark.parametrize("with_source", [True, False])
@pytest.mark.parametrize("method", ["linear", "ntk", "dynamic", "yarn", "llama3", "longrope", "none"])
def test_a_scaled_gptj_is_a_phi(method: str, with_source: bool, tmp_path: Path) -> None:
    """Far beyond the target as well; plain ones stay what they are unless a Phi is asked for."""
    model = saved(tmp_path / "in", "gptj", {"rotary_dim": 8, "tie_word_embeddings": with_source})
    summary = read_summary(tmp_path / "in")
    source = read_source_config(tmp_path / "in") if with_source else None
    extension = make_spec(
        method,
        original_window=WINDOW,
        target_window=WINDOW if method == "none" else TARGET,
        head_dim=16,
        rotary_percent=0.5,
        interleaved=True,
    )
    copy = ours_from(tmp_path / "in", extension, shape=summary.shape)
    wanted = "PhiForCausalLM" if method == "none" else "auto"
    export_huggingface(
        [copy], summary.shape, extension, tmp_path / "out", source_config=source, architecture=wanted
    )
    phi, loading = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", output_loading_info=True, attn_implementation="eager"
    )
    assert type(phi).__name__ == "PhiForCausalLM" and not any(loading.values()), loading
    phi.model.rotary_emb = ExactRotary(phi.model.rotary_emb)
    tokens_BS = random_tokens(length=40)
    positions_BS = far_positions(*tokens_BS.shape)
    with torch.no_grad():
        theirs_BSV, ours_BSV = (
            causal_logits(phi, tokens_BS, positions_BS),
            forward(copy, tokens_BS, positions_BS),
        )
        torch.testing.assert_close(ours_BSV, theirs_BSV, rtol=1e-4, atol=2e-4)
        if method == "none":
            torch.testing.assert_close(
                ours_BSV, causal_logits(model, tokens_BS, positions_BS), rtol=1e-4, atol=2e-4
            )
        again = forward(ours(tmp_path / "out"), tokens_BS, positions_BS)
    torch.testing.assert_close(again, ours_BSV, rtol=1e-4, atol=1e-4)
    assert read_summary(tmp_path / "out").extension == replace(extension, interleaved=False)


def swap(module: Any, one: str, other: str) -> None:
    """Two parts of a module change places."""
    parts = zip(getattr(module, one).parameters(), getattr(module, other).parameters(), strict=True)
    for mine, theirs in parts:
        mine.data, theirs.data = theirs.data.clone(), mine.data.clone()


def swap_halves(weight: Any) -> None:
    """The upper rows of a tensor become the lower ones."""
    weight.data = weight.data.roll(weight.size(0) // 2, dims=0)


def on_top(fused: Any) -> None:
    """Query, key and value on top of each other rather than head by head."""
    fused.data = fused.data.unflatten(0, (-1, 3, 16)).transpose(0, 1).flatten(0, 2).clone()


FAULTS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "query and key swapped": ("qwen2", lambda layer: swap(layer.self_attn, "q_proj", "k_proj")),
    "a bias dropped": ("qwen2", lambda layer: layer.self_attn.k_proj.bias.data.zero_()),
    "norms swapped": ("qwen3", lambda layer: swap(layer.self_attn, "q_norm", "k_norm")),
    "a norm dropped": ("qwen3", lambda layer: layer.self_attn.k_norm.weight.data.fill_(1.0)),
    "norms of all heads swapped": ("olmo2", lambda layer: swap(layer.self_attn, "q_norm", "k_norm")),
    "a norm behind dropped": ("olmo2", lambda layer: layer.post_feedforward_layernorm.weight.data.fill_(1.0)),
    "norms behind swapped": (
        "glm4",
        lambda layer: swap(layer, "post_self_attn_layernorm", "post_mlp_layernorm"),
    ),
    "gate and up swapped": ("phi3", lambda layer: swap_halves(layer.mlp.gate_up_proj.weight)),
    "scores not multiplied": ("granite", lambda layer: setattr(layer.self_attn, "scaling", 0.25)),
    "an output's bias dropped": ("phi", lambda layer: layer.self_attn.dense.bias.data.zero_()),
    "a norm's bias dropped": ("stablelm", lambda layer: layer.input_layernorm.bias.data.zero_()),
    "norms of both swapped": (
        "gpt_neox",
        lambda layer: swap(layer, "input_layernorm", "post_attention_layernorm"),
    ),
    "heads fused otherwise": ("gpt_neox", lambda layer: on_top(layer.attention.query_key_value.weight)),
    "weights that count from 0": ("nemotron", lambda layer: layer.input_layernorm.weight.data.sub_(1)),
    "a residual not multiplied": ("granite", lambda layer: setattr(layer, "residual_multiplier", 0.5)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_comparison_notices(fault: str, tmp_path: Path) -> None:
    family, plant = FAULTS[fault]
    model = saved(tmp_path, family, {"num_key_value_heads": 4})
    for layer in model.base_model.layers:
        plant(layer)
    with torch.no_grad():
        tokens_BS = random_tokens()
        difference = forward(ours(tmp_path), tokens_BS) - causal_logits(model, tokens_BS)
    assert difference.abs().max() > 0.05
