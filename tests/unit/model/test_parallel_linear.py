"""Linear layers on oneDNN against Megatron's own, whose classes they are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nemo_pi.kernels import products
from nemo_pi.model.options import BackendRequests, BuildOptions
from nemo_pi.model.parallel_linear import ColumnLinear, RowLinear
from tests.unit.model.models import SHAPE, build, plain

pytestmark = pytest.mark.usefixtures("one_rank")


def outcome(layer: torch.nn.Module, x: Tensor, upstream: Tensor) -> list[Tensor]:
    """The layer's output and the gradients of its input and weight."""
    leaf = x.clone().requires_grad_()
    out, _ = layer(leaf)
    return [out, *torch.autograd.grad(out, (leaf, layer.weight), upstream)]


@pytest.mark.parametrize("biased", [False, True])
def test_equal_megatrons(biased: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_SMALLEST", 1)
    block = build(SHAPE, plain()).decoder.layers[0]
    generator = torch.Generator().manual_seed(0)
    for layer in (block.self_attention.linear_qkv, block.mlp.linear_fc2):
        rows, columns = layer.weight.shape
        if biased:
            layer.bias = torch.nn.Parameter(torch.randn(rows, generator=generator))
            layer.skip_bias_add = False
        x, upstream = (torch.randn(5, 2, size, generator=generator) for size in (columns, rows))
        results = []
        for library in (products.ONEDNN, products.TORCH):
            layer.products = library
            results.append(outcome(layer, x, upstream))
        for ours, megatrons in zip(*results, strict=True):
            torch.testing.assert_close(ours, megatrons, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("layer_class", "name"), [(ColumnLinear, "linear_fc1"), (RowLinear, "linear_fc2")])
def test_who_computes(layer_class: type, name: str) -> None:
    """Ours where oneDNN is asked for, Megatron's autograd function elsewhere."""
    for library, function in (("onednn", "_Linear"), ("torch", "LinearWithGradAccumulation")):
        options = BuildOptions(backends=BackendRequests(matmul=library))
        layer = getattr(build(SHAPE, plain(), options).decoder.layers[0].mlp, name)
        assert type(layer) is layer_class
        x = torch.zeros(2, 1, layer.weight.size(1))
        out, _ = layer(x)
        names, node = [], out.grad_fn
        while node is not None:
            names.append(node.name())
            node = node.next_functions[0][0]
        assert any(found.startswith(function) for found in names), names
