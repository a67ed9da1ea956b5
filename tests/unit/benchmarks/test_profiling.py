"""Operators are sorted by what they are for."""

from __future__ import annotations

import pytest

from benchmarks.profile_step import useful_gemm_flops
from benchmarks.training.profiling import kind_of
from benchmarks.training.sizes import SIZES

VOCAB = 2048


@pytest.mark.parametrize(
    ("name", "shapes", "kind"),
    [
        ("aten::mm", [[1024, 256], [256, VOCAB]], "matrix products"),  # the output layer's is one, too
        ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", [], "attention"),
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


def test_useful_work_is_that_of_the_weights() -> None:
    shape = SIZES["4x256"].shape
    layer = 4 * 256 * 256 + 3 * 256 * 688
    assert useful_gemm_flops(shape, 10) == 6 * 10 * (4 * layer + 256 * 2048)
