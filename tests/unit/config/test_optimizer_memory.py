"""Optimizer states off the device: what goes together, what is told without CUDA, what is counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nemo_pi.config.memory import estimate_memory
from nemo_pi.config.optimizer_memory import check_optimizer_memory
from nemo_pi.errors import BackendUnavailableError, ConfigError
from nemo_pi.families.registry import family_of
from tests.unit.config.builders import SHAPE, run_of

WEIGHTS = family_of(SHAPE).num_parameters(SHAPE)


def test_options_arrive_under_megatron_s_names_with_what_they_bring_along() -> None:
    asked = {"optimizer_cpu_offload": True, "exp_avg_dtype": "bf16"}
    assert dict(run_of({"optim": asked}).engine.optim.megatron) == {
        **asked,
        "use_precision_aware_optimizer": True,
        "optimizer_offload_fraction": 1.0,
    }
    assert not run_of().engine.optim.megatron


@pytest.mark.parametrize(
    ("optim", "model", "key"),
    [
        ({"exp_avg_dtype": "int4", "use_precision_aware_optimizer": True}, {}, "optim.exp_avg_dtype"),
        ({"exp_avg_dtype": "bf16"}, {}, "optim.exp_avg_dtype"),
        ({"optimizer_offload_fraction": 0.5}, {}, "optim.optimizer_offload_fraction"),
        (
            {"optimizer_offload_fraction": 2.0, "optimizer_cpu_offload": True},
            {},
            "optim.optimizer_offload_fraction",
        ),
        ({"overlap_cpu_optimizer_d2h_h2d": True}, {}, "optim.overlap_cpu_optimizer_d2h_h2d"),
        (
            {"optimizer_cpu_offload": True, "use_precision_aware_optimizer": False},
            {},
            "optim.use_precision_aware_optimizer",
        ),
        (
            {"optimizer_cpu_offload": True},
            {"use_distributed_optimizer": False},
            "use_distributed_optimizer",
        ),
    ],
)
def test_what_does_not_go_together(optim: dict[str, Any], model: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_of({"optim": optim, **model})
    assert caught.value.field == f"model.{key}"


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks what is said where there is no GPU")
@pytest.mark.parametrize("key", ["optimizer_cpu_offload", "use_precision_aware_optimizer"])
def test_without_a_gpu_the_reason_is_told(key: str) -> None:
    check_optimizer_memory(run_of())
    with pytest.raises(BackendUnavailableError, match="host's memory already"):
        check_optimizer_memory(run_of({"optim": {key: True}}))


@pytest.mark.parametrize(
    ("optim", "gradients", "device", "host"),
    [
        ({}, 4, 12, 0),
        ({"optimizer_cpu_offload": True}, 4, 0, 16),
        ({"optimizer_cpu_offload": True, "optimizer_offload_fraction": 0.25}, 4, 9, 4),
        (
            {
                "use_precision_aware_optimizer": True,
                "main_grads_dtype": "bf16",
                "exp_avg_dtype": "bf16",
                "exp_avg_sq_dtype": "fp8",
            },
            2,
            7,
            0,
        ),
    ],
)
def test_bytes_of_a_weight_in_16_bits(optim: dict[str, Any], gradients: int, device: int, host: int) -> None:
    estimate = estimate_memory(run_of({"optim": optim}, trainer={"max_steps": 100, "precision": "bf16"}))
    assert estimate.gradients == gradients * WEIGHTS
    assert (estimate.optimizer, estimate.host) == (device * WEIGHTS, host * WEIGHTS)
