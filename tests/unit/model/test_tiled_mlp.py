"""The MLP over slices of tokens against the MLP over all of them, and what Megatron's DDP sees of it.

Shape legend: S tokens, B batch, H hidden size.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nemo_pi.families.shape import ModelShape
from nemo_pi.model.build import BuildOptions
from nemo_pi.model.core_attention import DocumentBoundaries
from nemo_pi.model.options import Recompute
from nemo_pi.parallel.cpu_shim import cpu_shim
from tests.unit.model.models import SHAPE, build, forward, random_tokens

pytestmark = pytest.mark.usefixtures("one_rank")

FULL = Recompute("full", "uniform", 1)
BIASES = dict.fromkeys(("qkv_bias", "proj_bias", "mlp_bias", "parallel_residual"), True)
SHAPES = {
    "swiglu": SHAPE,
    "gelu, biases": replace(SHAPE, family="gpt_neox", activation="gelu", num_query_groups=4, **BIASES),
    "gelu_tanh, biases, one norm": replace(SHAPE, family="phi", activation="gelu_tanh", **BIASES),
    "relu2": replace(SHAPE, family="nemotron", activation="relu2"),
    "norms behind": replace(SHAPE, family="olmo2", qk_norm=True),
    "gated gelu, norms on both sides": replace(
        SHAPE, family="gemma3_text", activation="gelu_tanh", qk_norm=True, tied_embeddings=True
    ),
    "scaled": replace(SHAPE, family="granite", residual_multiplier=0.3),
}


def model_of(shape: ModelShape, **options: Any) -> nn.Module:
    torch.manual_seed(3)
    model = build(shape, options=BuildOptions(init_method_std=0.15, **options)).train()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.normal_(mean=0.5)
    return model


def trained(model: nn.Module, documents: DocumentBoundaries | None = None) -> dict[str, Tensor]:
    """Losses [B, S] and the gradient of every parameter."""
    losses_BS = forward(model, random_tokens(), None, random_tokens(seed=1), documents)
    with cpu_shim():
        losses_BS.sum().backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {"losses": losses_BS.detach(), **found}  # type: ignore[dict-item]


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor], rounding: float = 1e-5) -> None:
    for name, value in wanted.items():
        size = float(value.abs().max())
        torch.testing.assert_close(found[name], value, rtol=0, atol=rounding * size, msg=name)


@pytest.mark.parametrize("size", [1, 17, 47])  # of 48 tokens: one each; an odd rest; a rest of one
@pytest.mark.parametrize("kind", SHAPES)
def test_slices_equal_all_at_once(kind: str, size: int) -> None:
    assert_same(trained(model_of(SHAPES[kind], mlp_chunk_tokens=size)), trained(model_of(SHAPES[kind])))


def test_in_float64_the_difference_is_its_rounding() -> None:
    """Not a number in another place, then: fp32's rounding would hide one of 1e-6."""
    plain, tiled = (
        model_of(SHAPE, mlp_chunk_tokens=size).double().decoder.layers[0].mlp for size in (None, 7)
    )
    x_SBH, upstream_SBH = torch.randn(2, 24, 2, 64, dtype=torch.float64)
    found = []
    for mlp in (plain, tiled):
        leaf_SBH = x_SBH.clone().requires_grad_()
        with cpu_shim():
            mlp(leaf_SBH)[0].backward(upstream_SBH)
        found.append([leaf_SBH.grad, *(weight.grad for weight in mlp.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-14 * float(other.abs().max()))


@pytest.mark.parametrize("recompute", [FULL, Recompute("full", "block", 1), Recompute("selective")])
@pytest.mark.parametrize("packed", [False, True])
def test_in_recomputed_layers_and_packed_rows(recompute: Recompute, packed: bool) -> None:
    documents = DocumentBoundaries(((0, 7, 24), (0, 24))) if packed else None
    wanted = trained(model_of(SHAPE), documents)
    assert_same(trained(model_of(SHAPE, mlp_chunk_tokens=9, recompute=recompute), documents), wanted)


def test_sums_of_16_bit_gradients_are_kept_in_32() -> None:
    """As near to the whole product's gradient as its own rounding is, whatever the number of slices."""
    weights = []
    for dtype, size in ((torch.float32, None), (torch.bfloat16, None), (torch.bfloat16, 1)):
        mlp = model_of(SHAPE, params_dtype=dtype, mlp_chunk_tokens=size).decoder.layers[0].mlp
        torch.manual_seed(5)
        with cpu_shim():
            mlp(torch.randn(1500, 1, 64).to(dtype))[0].sum().backward()
        weights.append(mlp.linear_fc1.weight.grad.float())
    exact, whole, sliced = weights
    assert (sliced - exact).norm() <= 1.1 * (whole - exact).norm()


def test_a_weight_s_gradient_arrives_once() -> None:
    """Megatron's DDP hangs on what adds a gradient up, and stops where that runs twice in a pass."""
    model = model_of(SHAPE, mlp_chunk_tokens=5)
    arrived: list[str] = []
    nodes = []
    for name, parameter in model.named_parameters():
        node = parameter.expand_as(parameter).grad_fn.next_functions[0][0]
        node.register_hook(lambda *_, name=name: arrived.append(name))
        nodes.append(node)
    trained(model)
    assert sorted(arrived) == sorted(name for name, _ in model.named_parameters())


def test_fused_gradients_are_left_where_they_were_added() -> None:
    """Under gradient_accumulation_fusion a layer adds to main_grad itself and returns an empty stand-in."""
    model = model_of(SHAPE, mlp_chunk_tokens=5)
    weight = model.decoder.layers[0].mlp.linear_fc2.weight
    weight.grad_added_to_main_grad = True
    weight.register_hook(lambda gradient: torch.full_like(gradient, 3.0))  # the stand-in, once a slice
    trained(model)
    assert weight.grad is not None and float(weight.grad.max()) == 3.0


def test_frozen_weights_and_inputs_get_nothing() -> None:
    mlp = model_of(SHAPE, mlp_chunk_tokens=5).decoder.layers[0].mlp
    mlp.linear_fc1.weight.requires_grad_(False)
    with cpu_shim():
        mlp(torch.randn(24, 2, 64))[0].sum().backward()
    assert mlp.linear_fc1.weight.grad is None and mlp.linear_fc2.weight.grad is not None


def test_dropped_channels_are_the_same_ones_again() -> None:
    """Of adapters, which may have dropout."""
    mlp = model_of(SHAPE, mlp_chunk_tokens=5).decoder.layers[0].mlp
    activate = mlp.activation_func
    mlp.activation_func = lambda x: torch.nn.functional.dropout(activate(x), 0.5)
    x_SBH = torch.randn(24, 2, 64, requires_grad=True)
    with cpu_shim():
        out_SBH = mlp(x_SBH)[0]
        # Linear in the last weight: out = Σ weight · its gradient, if both are of one draw.
        out_SBH.sum().backward()
    weight = mlp.linear_fc2.weight
    torch.testing.assert_close((weight * weight.grad).sum(), out_SBH.sum(), rtol=1e-4, atol=1e-4)


def test_keeps_its_input_alone() -> None:
    held: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    x_SBH = torch.randn(24, 2, 64, requires_grad=True)
    with cpu_shim(), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        model_of(SHAPE, mlp_chunk_tokens=5).decoder.layers[0].mlp(x_SBH)
    assert held == {x_SBH.untyped_storage().data_ptr(): x_SBH.nbytes}


def test_a_frozen_mlp_passes_gradients_on() -> None:
    """Of a model whose adapters stand elsewhere."""
    mlp, plain = (model_of(SHAPE, mlp_chunk_tokens=size).decoder.layers[0].mlp for size in (5, None))
    x_SBH = torch.randn(24, 2, 64)
    found = []
    for one in (mlp.requires_grad_(False), plain):
        leaf_SBH = x_SBH.clone().requires_grad_()
        with cpu_shim():
            one(leaf_SBH)[0].sum().backward()
        found.append(leaf_SBH.grad)
    torch.testing.assert_close(*found)
