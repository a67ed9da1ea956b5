"""The model against stock megatron-core, and against transformers for every method and far positions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from torch import Tensor

from nemo_pi.model.build import BuildOptions, transformer_config
from nemo_pi.parallel.cpu_shim import cpu_shim
from nemo_pi.parallel.layout import ParallelLayout
from nemo_pi.rope.spec import ContextExtension
from tests.unit.model.models import (
    SHAPE,
    WINDOW,
    ExactRotary,
    as_llama,
    build,
    causal_logits,
    forward,
    ours_from,
    plain,
    random_tokens,
    transformers_model,
)
from tests.unit.rope.peers import METHODS, Peer, make_spec

pytestmark = pytest.mark.usefixtures("one_rank")

TARGET = 8 * WINDOW


@pytest.fixture(scope="module")
def stock() -> GPTModel:
    """Megatron-core's own model with its local layers, RoPE and attention; weights of a fresh model."""
    config = transformer_config(SHAPE, ParallelLayout(), BuildOptions(init_method_std=0.15))
    config.use_te_activation_func = False  # its own activation
    torch.manual_seed(3)
    with cpu_shim():
        return GPTModel(
            config,
            get_gpt_layer_local_spec(normalization="RMSNorm"),
            vocab_size=SHAPE.vocab_size,
            max_sequence_length=WINDOW,
            position_embedding_type="rope",
            rotary_base=10000,
        )


def stock_forward(model: GPTModel, tokens_BS: Tensor, positions_BS: Tensor, labels: Any = None) -> Tensor:
    length = tokens_BS.size(1)
    hidden = torch.ones(length, length, dtype=torch.bool).triu(1)[None, None]
    with cpu_shim():
        return model(tokens_BS, positions_BS, hidden, labels=labels)


def test_plain_positions_equal_stock_megatron(stock: GPTModel) -> None:
    """Logits, losses and the gradient of every parameter."""
    ours = build()
    ours.load_state_dict(stock.state_dict())
    tokens_BS, labels_BS = random_tokens(), random_tokens(seed=1)
    positions_BS = torch.arange(tokens_BS.size(1)).expand_as(tokens_BS)
    logits_BSV = stock_forward(stock, tokens_BS, positions_BS)
    assert logits_BSV.std() > 0.5
    torch.testing.assert_close(forward(ours, tokens_BS), logits_BSV, rtol=1e-5, atol=1e-5)

    stock_forward(stock, tokens_BS, positions_BS, labels_BS).sum().backward()
    forward(ours, tokens_BS, labels_BS=labels_BS).sum().backward()
    gradients = {name: parameter.grad for name, parameter in stock.named_parameters()}
    assert len(gradients) == len(list(ours.parameters()))
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-5, msg=name)


def test_positions_matter_here_and_not_in_stock_megatron(stock: GPTModel) -> None:
    ours = build()
    ours.load_state_dict(stock.state_dict())
    tokens_BS = random_tokens()
    plain_BS = torch.arange(tokens_BS.size(1)).expand_as(tokens_BS)
    with_gap_BS = plain_BS + 20 * (plain_BS >= 10)
    same = stock_forward(stock, tokens_BS, plain_BS), stock_forward(stock, tokens_BS, with_gap_BS)
    assert torch.equal(*same)
    before, after = forward(ours, tokens_BS, plain_BS), forward(ours, tokens_BS, with_gap_BS)
    torch.testing.assert_close(after[:, :10], before[:, :10], rtol=1e-5, atol=1e-5)
    assert (after[:, 11:] - before[:, 11:]).abs().max() > 0.1


def test_only_distances_between_positions_matter() -> None:
    """Rotary attention sees differences: shifting a whole row, by another amount each, changes nothing."""
    ours, tokens_BS = build(options=BuildOptions(init_method_std=0.15)), random_tokens()
    shift_B1 = torch.tensor([[5], [1000]])
    positions_BS = torch.arange(tokens_BS.size(1)) + shift_B1
    torch.testing.assert_close(
        forward(ours, tokens_BS, positions_BS), forward(ours, tokens_BS), rtol=1e-4, atol=1e-4
    )


def far_positions(length: int, end: int, rows: int) -> Tensor:
    """Rising positions with gaps, another draw for every row, the last one `end` − 1."""
    generator = torch.Generator().manual_seed(5)
    drawn = [torch.randperm(end - 1, generator=generator)[: length - 1].sort().values for _ in range(rows)]
    return torch.cat([torch.stack(drawn), torch.full((rows, 1), end - 1)], dim=1)


def spec_of(method: str, **changes: Any) -> ContextExtension:
    return make_spec(method, original_window=WINDOW, target_window=TARGET, head_dim=SHAPE.head_dim, **changes)


def peer_settings(spec: ContextExtension) -> dict[str, Any]:
    """What transformers' config calls this spec, written down without our code."""
    window = spec.original_window if spec.method == "dynamic" else spec.target_window
    return {"rope_parameters": Peer(spec).rope_parameters, "max_position_embeddings": window}


@pytest.mark.parametrize("end", [24, TARGET, 100 * TARGET])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_equals_transformers(method: str, end: int, tmp_path: Path) -> None:
    """Positions from within the original window to a hundred times beyond the target."""
    spec = spec_of(method)
    model = transformers_model(**peer_settings(spec))
    model.save_pretrained(tmp_path)
    # Its own angles are fp32 products; near 50,000 they are wrong in the third decimal.
    model.model.rotary_emb = ExactRotary(model.model.rotary_emb)
    tokens_BS = random_tokens()
    positions_BS = far_positions(tokens_BS.size(1), end, rows=2)
    with torch.no_grad():
        theirs_BSV = causal_logits(model, tokens_BS, positions_BS)
        ours_BSV = forward(ours_from(tmp_path, spec), tokens_BS, positions_BS)
    torch.testing.assert_close(ours_BSV, theirs_BSV, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "none"])
def test_methods_differ_from_plain_positions(method: str) -> None:
    """So that the comparison above cannot pass by ignoring the method."""
    tokens_BS = random_tokens(length=100)  # dynamic changes beyond the original window only
    model = build(options=BuildOptions(init_method_std=0.15))
    scaled = build(extension=spec_of(method))
    scaled.load_state_dict(model.state_dict())
    with torch.no_grad():
        difference = forward(scaled, tokens_BS) - forward(model, tokens_BS)
    assert difference.abs().max() > 0.01


def test_transformers_as_it_is(tmp_path: Path) -> None:
    """Unmodified transformers over its whole extended window, default positions."""
    spec = spec_of("linear")
    model = transformers_model(**peer_settings(spec))
    model.save_pretrained(tmp_path)
    tokens_BS = random_tokens(rows=1, length=TARGET)
    with torch.no_grad():
        theirs_BSV, ours_BSV = model(tokens_BS).logits, forward(ours_from(tmp_path, spec), tokens_BS)
    torch.testing.assert_close(ours_BSV, theirs_BSV, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("percent", [0.5, 0.75])
@pytest.mark.parametrize("method", ["none", "longrope"])
def test_partial_rotary_equals_phi3(method: str, percent: float, tmp_path: Path) -> None:
    spec = spec_of(method, rotary_percent=percent)
    settings = peer_settings(spec) | {"original_max_position_embeddings": WINDOW}
    model = transformers_model("phi3", **settings)
    as_llama(model).save_pretrained(tmp_path)
    tokens_BS = random_tokens()
    positions_BS = far_positions(tokens_BS.size(1), TARGET, rows=2)
    with torch.no_grad():
        theirs_BSV = causal_logits(model, tokens_BS, positions_BS)
        ours_BSV = forward(ours_from(tmp_path, spec), tokens_BS, positions_BS)
    torch.testing.assert_close(ours_BSV, theirs_BSV, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("percent", [0.5, 1.0])
@pytest.mark.parametrize("method", ["none", "linear", "yarn"])
def test_interleaved_rotary_equals_glm(method: str, percent: float, tmp_path: Path) -> None:
    spec = spec_of(method, rotary_percent=percent, interleaved=True)
    model = transformers_model("glm", attention_bias=False, **peer_settings(spec))
    as_llama(model).save_pretrained(tmp_path)
    tokens_BS = random_tokens()
    positions_BS = far_positions(tokens_BS.size(1), TARGET, rows=2)
    with torch.no_grad():
        theirs_BSV = causal_logits(model, tokens_BS, positions_BS)
        ours_BSV = forward(ours_from(tmp_path, spec, reorder=False), tokens_BS, positions_BS)
    torch.testing.assert_close(ours_BSV, theirs_BSV, rtol=1e-3, atol=1e-3)


def test_interleaved_copy_of_llama_equals_llama(tmp_path: Path) -> None:
    """Import reorders the channels of q and k, so that the other layout computes the same."""
    model = transformers_model()
    model.save_pretrained(tmp_path)
    tokens_BS = random_tokens()
    with torch.no_grad():
        ours_BSV = forward(ours_from(tmp_path, plain(interleaved=True)), tokens_BS)
        torch.testing.assert_close(ours_BSV, causal_logits(model, tokens_BS), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_query_groups": 1},
        {"num_query_groups": 4},
        {"tied_embeddings": True},
        {"num_attention_heads": 8, "num_query_groups": 4, "head_dim": 12},
        {"norm_epsilon": 0.1},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_shapes_equal_llama(changes: dict[str, Any], tmp_path: Path) -> None:
    shape = replace(SHAPE, **changes)
    settings = {
        "num_key_value_heads": shape.num_query_groups,
        "num_attention_heads": shape.num_attention_heads,
        "head_dim": shape.head_dim,
        "tie_word_embeddings": shape.tied_embeddings,
        "rms_norm_eps": shape.norm_epsilon,
    }
    model = transformers_model(**settings)
    model.save_pretrained(tmp_path)
    extension = ContextExtension.unscaled(WINDOW, shape.head_dim)
    tokens_BS = random_tokens()
    with torch.no_grad():
        ours_BSV = forward(ours_from(tmp_path, extension, shape=shape), tokens_BS)
        torch.testing.assert_close(ours_BSV, causal_logits(model, tokens_BS), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sliding_window", [1, 5, 24, 100])
def test_sliding_window_equals_mistral(sliding_window: int, tmp_path: Path) -> None:
    model = transformers_model("mistral", sliding_window=sliding_window)
    model.save_pretrained(tmp_path)
    shape = replace(SHAPE, family="mistral", sliding_window=sliding_window)
    tokens_BS = random_tokens()
    with torch.no_grad():
        ours_BSV = forward(ours_from(tmp_path, plain(), shape=shape), tokens_BS)
        torch.testing.assert_close(ours_BSV, causal_logits(model, tokens_BS), rtol=1e-4, atol=1e-4)


def test_bf16_stays_near_fp32(tmp_path: Path) -> None:
    """At far positions too: angles are not rounded to bf16."""
    spec = spec_of("linear")
    model = transformers_model(**peer_settings(spec))
    model.save_pretrained(tmp_path)
    tokens_BS = random_tokens()
    positions_BS = far_positions(tokens_BS.size(1), TARGET, rows=2)
    low = ours_from(tmp_path, spec, options=BuildOptions(params_dtype=torch.bfloat16))
    with torch.no_grad():
        logits_BSV = forward(low, tokens_BS, positions_BS)
        theirs_BSV = causal_logits(model, tokens_BS, positions_BS)
    assert {parameter.dtype for parameter in low.parameters()} == {torch.bfloat16}
    error = (logits_BSV.float() - theirs_BSV).pow(2).mean().sqrt() / theirs_BSV.std()
    assert error < 0.03


@pytest.mark.parametrize("tied", [False, True])
def test_the_chunked_loss_equals_whole_logits(tied: bool) -> None:
    """Sum and gradients of every parameter; chunks that divide neither the row nor the batch."""
    shape = replace(SHAPE, tied_embeddings=tied)
    tokens_BS, labels_BS = random_tokens(), random_tokens(seed=1)
    mask_BS = (torch.arange(tokens_BS.numel()) % 3 > 0).float().view_as(tokens_BS)
    losses, gradients = [], []
    for chunk_tokens in (None, 7):
        options = BuildOptions(init_method_std=0.15, loss_chunk_tokens=chunk_tokens)
        torch.manual_seed(2)
        model = build(shape, options=options)
        positions_BS = torch.arange(tokens_BS.size(1)).expand_as(tokens_BS)
        with cpu_shim():
            loss = model(tokens_BS, positions_BS, None, labels=labels_BS, loss_mask=mask_BS)
            loss.backward()
        losses.append(loss.detach())
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    per_token_BS = forward(model, tokens_BS, labels_BS=labels_BS).detach()
    torch.testing.assert_close(losses[0], (per_token_BS * mask_BS).sum())
    torch.testing.assert_close(losses[1], losses[0])
    for name, gradient in gradients[1].items():
        torch.testing.assert_close(gradient, gradients[0][name], rtol=1e-4, atol=1e-5, msg=name)
