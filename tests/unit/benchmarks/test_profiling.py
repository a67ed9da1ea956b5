"""Operators are sorted by what they are for."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent

from benchmarks.profile_step import useful_gemm_flops
from benchmarks.training import profiling
from benchmarks.training.profiling import kind_of, kind_of_event, profile_step
from benchmarks.training.sizes import SIZES

VOCAB = 2048


@pytest.mark.parametrize(
    ("name", "shapes", "kind"),
    [
        ("aten::mm", [[1024, 256], [256, VOCAB]], "matrix products"),  # the output layer's is one, too
        ("aten::addmm_", [[VOCAB, 256], [VOCAB, 512], [512, 256]], "matrix products"),
        ("mkldnn::_linear_pointwise", [[1024, 256], [768, 256]], "matrix products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", [], "attention"),
        ("_AttendBackward", [[1, 4, 1024, 64]], "attention"),
        ("aten::_log_softmax", [[1024, VOCAB], [], []], "loss"),
        ("aten::exp", [[1024, VOCAB]], "loss"),  # as wide as the vocabulary
        ("aten::exp", [[VOCAB, 256]], "other operators"),  # as long as the vocabulary
        ("aten::copy_", [[1024, 256], [1024, 256], []], "copies"),
        ("aten::_fused_adamw_", [], "optimizer"),
        ("aten::_fused_rms_norm", [[1024, 256]], "norms"),
        ("aten::embedding_dense_backward", [[1024, 256]], "embedding"),
        ("aten::silu_backward", [[1024, 688]], "activation"),
        ("_RotateFusedQKVBackward", [], "rotary"),
        ("_WeightedLossSum", [], "loss"),
        ("c10d::allgather_into_tensor_coalesced_", [], "collectives"),
        ("aten::mul", [[1024, 688]], "other operators"),
    ],
)
def test_kinds(name: str, shapes: list[list[int]], kind: str) -> None:
    assert kind_of(name, shapes, VOCAB) == kind


@dataclass
class Event:
    """As much of torch.profiler's FunctionEvent as is looked at."""

    name: str
    cpu_parent: Event | None = None
    input_shapes: list[list[int]] | None = None


def test_arithmetic_counts_for_what_it_is_part_of() -> None:
    rotary = Event("_RotateFusedQKV", Event("whole step"))
    assert kind_of_event(Event("aten::mul", Event("aten::mul_", rotary)), VOCAB) == "rotary"
    assert kind_of_event(Event("aten::copy_", rotary), VOCAB) == "rotary"
    assert kind_of_event(Event("aten::mm", rotary), VOCAB) == "matrix products"
    assert kind_of_event(Event("aten::copy_", Event("whole step")), VOCAB) == "copies"
    for name in ("aten::mm", "aten::softmax", "aten::mul"):
        assert kind_of_event(Event(name, Event("_RowsBackward")), VOCAB) == "attention"


class _RotateByOne(torch.autograd.Function):
    """Something hand-written that is arithmetic inside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sin().cos().exp()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.cos().exp()


def test_a_real_profile_adds_up() -> None:
    weight = torch.randn(256, 256, requires_grad=True)
    tokens = torch.randn(512, 256)

    def step() -> float:
        loss = _RotateByOne.apply(tokens @ weight).sum()
        loss.backward()
        return loss.item()

    found = profile_step(step, VOCAB, on_gpu=False)
    kinds = found["kinds"]
    assert sum(kinds.values()) == pytest.approx(found["profiled"], rel=0.05)
    assert kinds["matrix products"] > 0 and kinds["rotary"] > 0 and kinds["loss"] == 0
    assert ["aten::mm", "matrix products"] in [entry[:2] for entry in found["longest"]]


def test_kernels_on_a_gpu_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The profiler lists a kernel by itself, and again as device time of the operator that started it."""
    operator = FunctionEvent(1, "aten::mm", 0, 0, 50, device_type=DeviceType.CPU, use_device="cuda")
    operator.append_kernel("gemm", 0, 1000)
    kernel = FunctionEvent(2, "gemm", 0, 10, 1010, device_type=DeviceType.CUDA, use_device="cuda")
    profiler = SimpleNamespace(events=lambda: [operator, kernel])
    monkeypatch.setattr(profiling, "profile", lambda **_: nullcontext(profiler))
    found = profile_step(lambda: 0.0, VOCAB, on_gpu=True)
    assert found["kinds"]["matrix products"] == pytest.approx(1e-3 / profiling._STEPS)
    assert found["kinds"]["other operators"] == 0
    assert [entry[0] for entry in found["longest"]] == ["aten::mm"]


def test_useful_work_is_that_of_the_weights() -> None:
    shape = SIZES["4x256"].shape
    layer = 4 * 256 * 256 + 3 * 256 * 688
    assert useful_gemm_flops(shape, 10) == 6 * 10 * (4 * layer + 256 * 2048)
