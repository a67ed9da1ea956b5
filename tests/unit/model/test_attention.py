"""Self-attention: which kernel it takes, and that no step's tables outlive it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nemo_pi.errors import BackendUnavailableError, ConfigError
from nemo_pi.kernels.rotary import KERNELS
from nemo_pi.model.attention import RotarySelfAttention
from nemo_pi.model.options import BackendRequests, BuildOptions
from nemo_pi.model.rotary import RotaryTables
from nemo_pi.parallel.cpu_shim import cpu_shim
from nemo_pi.rope.channel_order import interleaved_from_halves
from nemo_pi.rope.query_scale import QueryScale
from tests.unit.model.models import SHAPE, build, forward, plain, random_tokens

pytestmark = pytest.mark.usefixtures("one_rank")


def attention_of(kernel: str = "auto") -> RotarySelfAttention:
    options = BuildOptions(backends=BackendRequests(rotary=kernel))
    return build(options=options).decoder.layers[0].self_attention


def rotated(attention: RotarySelfAttention, hidden_SBH: Tensor, tables: Tensor | None) -> tuple[Tensor, ...]:
    attention._tables = tables
    with cpu_shim():
        return attention.get_query_key_value_tensors(hidden_SBH)


def test_rotates_query_and_key_but_not_value() -> None:
    """A quarter turn of every pair: (a, b) becomes (−b, a)."""
    attention = attention_of()
    hidden_SBH = torch.randn(3, 2, SHAPE.hidden_size, generator=torch.Generator().manual_seed(0))
    quarter = torch.stack([torch.zeros(3, 2, 1, 8), torch.ones(3, 2, 1, 8)])
    before, after = rotated(attention, hidden_SBH, None), rotated(attention, hidden_SBH, quarter)
    for plain_one, turned in zip(before[:2], after[:2], strict=True):
        first, second = plain_one.chunk(2, dim=-1)
        torch.testing.assert_close(turned, torch.cat([-second, first], dim=-1))
    assert torch.equal(before[2], after[2])


@pytest.mark.parametrize("kernel", ["triton", "transformer_engine", "apex"])
def test_a_kernel_that_cannot_run_stops_the_model(kernel: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("these kernels may run on a GPU")
    with pytest.raises(BackendUnavailableError, match="rotary_kernel"):
        attention_of(kernel)


def test_an_unknown_kernel_stops_the_model() -> None:
    with pytest.raises(ConfigError, match="rotary_kernel"):
        attention_of("tritn")


def test_each_layer_takes_the_kernel_it_is_told() -> None:
    assert attention_of("torch")._kernel is KERNELS[-1]


def test_named_kernel_equals_the_chosen_one() -> None:
    chosen, named = build(), build(options=BuildOptions(backends=BackendRequests(rotary="torch")))
    named.load_state_dict(chosen.state_dict())
    ours, theirs = forward(chosen, random_tokens()), forward(named, random_tokens())
    # `auto` may take the compiled kernel, which fuses products and sums.
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def split_and_gradient(attention: RotarySelfAttention, hidden_SBH: Tensor) -> list[Tensor]:
    """Query, key, value, then the gradients of the projection's weight and of the hidden states."""
    hidden = hidden_SBH.clone().requires_grad_()
    generator = torch.Generator().manual_seed(1)
    angle = 100 * torch.randn(*hidden.shape[:2], 1, SHAPE.head_dim // 2, generator=generator)
    qkv = rotated(attention, hidden, torch.stack((angle.cos(), angle.sin())))
    upstream = [torch.randn(x.shape, generator=generator) for x in qkv]
    weight = attention.linear_qkv.weight
    return [*qkv, *torch.autograd.grad(qkv, (weight, hidden), upstream)]


@pytest.mark.parametrize("groups", [1, 2, SHAPE.num_attention_heads])
def test_rotating_inside_the_projection_changes_nothing(groups: int) -> None:
    """One key head, fewer than query heads, and as many: against Megatron's own split, then the kernel."""
    shape = replace(SHAPE, num_query_groups=groups)
    attention = build(shape=shape).decoder.layers[0].self_attention
    assert attention._rotation is not None
    hidden_SBH = torch.randn(3, 2, SHAPE.hidden_size, generator=torch.Generator().manual_seed(0))
    inside = split_and_gradient(attention, hidden_SBH)
    attention._rotation = None
    for one, other in zip(inside, split_and_gradient(attention, hidden_SBH), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_one_storage_for_query_key_and_value() -> None:
    """In place where each group has one query head; with more, nothing keeps the projection's output."""
    for groups, storages in ((SHAPE.num_attention_heads, 1), (2, 3)):
        shape = replace(SHAPE, num_query_groups=groups)
        attention = build(shape=shape).decoder.layers[0].self_attention
        qkv = split_and_gradient(attention, torch.ones(3, 2, SHAPE.hidden_size))[:3]
        assert len({x.untyped_storage().data_ptr() for x in qkv}) == storages
        kept = sum(x.untyped_storage().nbytes() for x in qkv[:storages])
        assert kept == sum(x.numel() * x.element_size() for x in qkv)


def test_interleaved_layout_reaches_the_kernel() -> None:
    """The other layout with the channels of q and k reordered computes the same."""
    halves, pairs = (
        build(options=BuildOptions(init_method_std=0.15)),
        build(extension=plain(interleaved=True)),
    )
    order = interleaved_from_halves(SHAPE.head_dim, SHAPE.head_dim)
    state = halves.state_dict()
    rows = SHAPE.num_attention_heads // SHAPE.num_query_groups + 2
    for name, value in state.items():
        if "linear_qkv.weight" in name:
            heads = value.view(SHAPE.num_query_groups, rows, SHAPE.head_dim, -1).clone()
            heads[:, :-1] = heads[:, :-1, order]
            state[name] = heads.view_as(value)
    pairs.load_state_dict(state)
    torch.testing.assert_close(
        forward(pairs, random_tokens()), forward(halves, random_tokens()), rtol=1e-4, atol=1e-5
    )


def test_tables_do_not_outlive_a_forward_that_fails() -> None:
    attention = attention_of()
    with pytest.raises(RuntimeError), cpu_shim():
        attention(torch.randn(3, 2, 7), None, rotary_pos_emb=torch.zeros(2, 3, 2, 1, 8))
    assert attention._tables is None


def test_layers_are_rotated_by_their_own_tables_or_not_at_all() -> None:
    """Full, sliding, and not rotated: against the same layer under tables of one kind."""
    shape = replace(
        SHAPE, num_layers=4, sliding_window=8, full_attention_layers=(1, 2), unrotated_layers=(2, 3)
    )
    model = build(shape, replace(plain(), sliding=plain(base=50.0)))
    hidden_SBH = torch.randn(5, 2, SHAPE.hidden_size, generator=torch.Generator().manual_seed(0))
    tables = model.rotary_tables(torch.arange(0, 500, 100).expand(2, 5))
    for layer, expected in zip(model.decoder.layers, (tables[2:], tables[:2], None, None), strict=True):
        attention = layer.self_attention
        ours = rotated(attention, hidden_SBH, tables)
        attention._kind = 0
        for one, other in zip(ours, rotated(attention, hidden_SBH, expected), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("unrotated", [(), (0,)])
@pytest.mark.parametrize("groups", [1, 2, SHAPE.num_attention_heads])
def test_queries_grow_in_every_layer_and_their_gradients_with_them(groups: int, unrotated: tuple) -> None:
    shape = replace(SHAPE, num_query_groups=groups, unrotated_layers=unrotated)
    scaled = replace(plain(), query_scale=QueryScale(0.5, 2))
    attention = build(shape, scaled).decoder.layers[0].self_attention
    tables = RotaryTables(scaled)(torch.arange(3).expand(2, 3))
    hidden = torch.randn(3, 2, SHAPE.hidden_size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    query, key, _ = rotated(attention, hidden, tables)
    attention._scales_queries = False
    plain_query, plain_key, _ = rotated(attention, hidden, tables)
    assert torch.equal(key, plain_key)
    for token, factor in enumerate((1.0, 1.0, 1 + 0.5 * math.log(2))):
        torch.testing.assert_close(query[token], factor * plain_query[token])
        one, other = (
            torch.autograd.grad(q[token].sum(), hidden, retain_graph=True)[0] for q in (query, plain_query)
        )
        torch.testing.assert_close(one, factor * other)
