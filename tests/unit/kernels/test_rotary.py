"""Choosing a rotary kernel: an explicit request never degrades, auto says what it chose."""

from __future__ import annotations

import logging
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch

from nemo_pi.errors import BackendUnavailableError, ConfigError
from nemo_pi.kernels.native import obstacle
from nemo_pi.kernels.reference import rotate_query_key
from nemo_pi.kernels.rotary import (
    KERNELS,
    RotaryCapability,
    RotaryKernel,
    RotaryNeeds,
    select_rotary_kernel,
)

NEEDS = RotaryNeeds(head_dim=64)
ABLE = RotaryCapability(
    frozenset({"cpu"}), frozenset({torch.float32}), interleaved=True, has_attention_factor=True
)
ON_GPU = RotaryNeeds(head_dim=64, device_type="cuda", dtype=torch.bfloat16)


def test_torch_does_everything() -> None:
    for interleaved in (False, True):
        needs = RotaryNeeds(64, 32, interleaved, "anything", torch.float64)
        kernel = select_rotary_kernel("torch", needs)
        assert kernel.name == "torch"
    x_ND = torch.randn(2, 8)
    cos_F, sin_F = torch.zeros(4), torch.ones(4)
    q_ND, k_ND = kernel(x_ND, 2 * x_ND, cos_F, sin_F, interleaved=True)
    assert q_ND.flatten().tolist() == torch.stack((-x_ND[:, 1::2], x_ND[:, 0::2]), -1).flatten().tolist()
    assert torch.equal(k_ND, 2 * q_ND)


@pytest.mark.parametrize(
    ("name", "needs", "reason"),
    [
        ("triton", NEEDS, "it runs on cuda, not on cpu"),
        ("triton", replace(ON_GPU, dtype=torch.float64), "does not take torch.float64"),
        ("triton", replace(ON_GPU, head_dim=320), "up to 256 channels, not 320"),
        (
            "transformer_engine",
            replace(ON_GPU, has_attention_factor=True),
            "no room for this method's attention attention factor",
        ),
        (
            "apex",
            replace(ON_GPU, dtype=torch.float32, interleaved=True),
            "does not know the interleaved layout",
        ),
        ("apex", ON_GPU, "or not with fp32 cosines and sines"),
    ],
)
def test_explicit_request_is_refused_with_the_reason(name: str, needs: RotaryNeeds, reason: str) -> None:
    with pytest.raises(BackendUnavailableError) as caught:
        select_rotary_kernel(name, needs)
    assert caught.value.field == "model.rotary_kernel"
    assert reason in str(caught.value) and "torch)" in str(caught.value)


def test_request_for_what_cannot_be_is_refused_everywhere() -> None:
    """Whatever the machine has installed, a known name either works or says why not."""
    needs = RotaryNeeds(64, device_type="cuda", dtype=torch.bfloat16)
    for kernel in KERNELS:
        if kernel.unusable(needs) is None:
            assert select_rotary_kernel(kernel.name, needs) is kernel
        else:
            with pytest.raises(BackendUnavailableError):
                select_rotary_kernel(kernel.name, needs)


def test_unknown_name() -> None:
    with pytest.raises(ConfigError, match=r"model\.rotary_kernel: required auto or one of triton"):
        select_rotary_kernel("cuda", NEEDS)


@pytest.mark.parametrize(
    ("change", "needs", "reason"),
    [
        ({"interleaved": False}, {"interleaved": True}, "interleaved"),
        ({"has_attention_factor": False}, {"has_attention_factor": True}, "attention factor"),
        ({"has_attention_factor": False}, {}, None),
        ({"max_head_dim": 63}, {}, "up to 63 channels, not 64"),
        ({"max_head_dim": 64}, {}, None),
        ({}, {"rotary_dim": 32}, None),
        ({}, {"device_type": "cuda"}, "not on cuda"),
        ({"device_types": None}, {"device_type": "cuda"}, None),
        ({}, {"dtype": torch.bfloat16}, "bfloat16"),
        ({}, {}, None),
    ],
    ids=str,
)
def test_capability(change: dict[str, Any], needs: dict[str, Any], reason: str | None) -> None:
    lacks = replace(ABLE, **change).lacks(replace(NEEDS, **needs))
    assert (lacks is None) if reason is None else reason in str(lacks)


def test_missing_package() -> None:
    absent = RotaryKernel("absent", ABLE, rotate_query_key, package="surely_not_a_module")
    assert absent.unusable(NEEDS) == "the module surely_not_a_module is not installed"
    assert RotaryKernel("there", ABLE, rotate_query_key, package="torch").unusable(NEEDS) is None


def test_auto_takes_the_first_and_logs_once(caplog: pytest.LogCaptureFixture) -> None:
    needs = RotaryNeeds(head_dim=66)  # not asked for elsewhere: each choice is logged once a process
    with caplog.at_level(logging.INFO, logger="nemo_pi.kernels.registry"):
        chosen = {select_rotary_kernel("auto", needs).name for _ in range(3)}
    usual = "torch" if obstacle() else "native"
    assert chosen == {usual}
    (record,) = caplog.records
    assert f"auto chose {usual}" in record.message and "triton: it runs on cuda, not on cpu" in record.message
    fast = RotaryKernel("fast", ABLE, rotate_query_key)
    assert select_rotary_kernel("auto", needs, (fast, *KERNELS)) is fast
    assert (
        select_rotary_kernel("auto", replace(needs, device_type="cuda"), (fast, KERNELS[-1])).name == "torch"
    )


def test_fused_never_falls_back_to_operators(caplog: pytest.LogCaptureFixture) -> None:
    """model.apply_rope_fusion: true; no fused kernel takes fp64."""
    needs = replace(NEEDS, dtype=torch.float64)
    with pytest.raises(BackendUnavailableError) as caught:
        select_rotary_kernel("fused", needs)
    assert caught.value.field == "model.apply_rope_fusion"
    assert "apex: it runs on cuda" in str(caught.value) and "write null" in str(caught.value)
    fast = RotaryKernel("fast", ABLE, rotate_query_key)
    with caplog.at_level(logging.INFO, logger="nemo_pi.kernels.registry"):
        assert select_rotary_kernel("fused", replace(NEEDS, head_dim=70), (KERNELS[-1], fast)) is fast
    (record,) = caplog.records
    assert record.message.startswith("model.apply_rope_fusion: true chose fast")


def test_an_explicit_choice_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="nemo_pi.kernels.registry"):
        for _ in range(3):
            select_rotary_kernel("torch", RotaryNeeds(head_dim=68, rotary_dim=34))
    (record,) = caplog.records
    assert "torch, as asked for, for 34 of 68 channels" in record.message


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_a_pass_through_needs_no_capability(kernel: RotaryKernel) -> None:
    """Partial rotary and arbitrary positions are what all of them do."""
    needs = RotaryNeeds(64, device_type="cpu" if kernel.name == "native" else "cuda")
    assert kernel.capability.lacks(needs) == kernel.capability.lacks(replace(needs, rotary_dim=16)) is None


def test_auto_with_nothing_to_choose() -> None:
    with pytest.raises(BackendUnavailableError, match="fast: it runs on cpu, not on cuda"):
        select_rotary_kernel(
            "auto", RotaryNeeds(64, device_type="cuda"), (RotaryKernel("fast", ABLE, rotate_query_key),)
        )


def test_records_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        KERNELS[0].capability.interleaved = False  # type: ignore[misc]
