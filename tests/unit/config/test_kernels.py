"""What the YAML asks of kernels, and that the plan shows what the model is built of."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_pi.config.kernels import resolve_kernels
from nemo_pi.config.plan import render_plan
from nemo_pi.config.schema import ModelConfig
from nemo_pi.errors import BackendUnavailableError, ConfigError
from nemo_pi.kernels.backends import JOBS, PLUG_INS
from nemo_pi.model.backends import choose_backends
from tests.plug_ins import install
from tests.unit.config.builders import run_of


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (None, "auto")),
        ({"transformer_engine": True}, (True, "auto")),
        ({"transformer_engine": "False"}, (False, "auto")),
        ({"rotary_kernel": "triton"}, (None, "triton")),
        ({"apply_rope_fusion": False}, (None, "torch")),
        ({"apply_rope_fusion": True}, (None, "fused")),
        ({"apply_rope_fusion": True, "rotary_kernel": "apex"}, (None, "apex")),
    ],
)
def test_kernels(changes: dict[str, Any], expected: tuple[bool | None, str]) -> None:
    engine, backends = resolve_kernels(replace(ModelConfig(), **changes))
    assert (engine, backends.rotary) == expected


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"transformer_engine": "yes"}, "transformer_engine"),
        ({"rotary_kernel": "tritn"}, "rotary_kernel"),
        ({"rotary_kernel": "fused"}, "rotary_kernel"),
        *(({f"{job}_backend": "nativ"}, f"{job}_backend") for job in JOBS),
        ({"rotary_kernel": "triton", "apply_rope_fusion": False}, "apply_rope_fusion"),
        ({"rotary_kernel": "torch", "apply_rope_fusion": True}, "apply_rope_fusion"),
    ],
)
def test_kernels_are_checked(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_kernels(replace(ModelConfig(), **changes))
    assert caught.value.field == f"model.{key}"


SPLIT = {"tensor_model_parallel_size": 2, "context_parallel_size": 2}


@pytest.mark.parametrize("backend", ["auto", "sdpa"])
@pytest.mark.parametrize("precision", ["32", "bf16"])
@pytest.mark.parametrize(("model", "world_size"), [({}, 1), ({"encoder_seq_length": 48}, 1), (SPLIT, 4)])
def test_the_plan_shows_what_the_engine_is_built_of(
    model: dict[str, Any], world_size: int, precision: str, backend: str
) -> None:
    run = run_of(
        {**model, "attention_backend": backend},
        world_size=world_size,
        trainer={"max_steps": 100, "precision": precision},
    )
    settings = run.engine
    built = choose_backends(settings.workload(), settings.build.backends)
    labels = {"matmul": "products", "rotary": "rotary kernel"}
    plan = render_plan(run)
    for job, described in built.describe().items():
        assert f"  {labels.get(job, job):<18}{described}\n" in plan


@pytest.mark.parametrize(
    ("cuda", "changes", "expected"),
    [
        (True, {"bias_activation_fusion": True}, "megatron"),
        (True, {"bias_activation_fusion": False}, "torch"),
        (False, {"bias_activation_fusion": False}, "auto"),
        (True, {"bias_activation_fusion": True, "activation_backend": "megatron"}, "megatron"),
        (True, {"bias_activation_fusion": False, "activation_backend": "torch"}, "torch"),
    ],
)
def test_the_fused_activation_by_nemos_name(
    cuda: bool, changes: dict[str, Any], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert resolve_kernels(replace(ModelConfig(), **changes))[1].activation == expected


def test_the_fused_activation_is_an_error_where_it_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendUnavailableError, match=r"bias_activation_fusion.*no CUDA device"):
        resolve_kernels(replace(ModelConfig(), bias_activation_fusion=True))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for fused, name in ((True, "torch"), (False, "megatron")):
        with pytest.raises(ConfigError, match=f"in agreement with activation_backend={name}"):
            resolve_kernels(replace(ModelConfig(), bias_activation_fusion=fused, activation_backend=name))


def test_an_unknown_name_offers_what_can_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError) as caught:
        resolve_kernels(replace(ModelConfig(), activation_backend="halves"))
    assert "torch" in caught.value.fix and "megatron" not in caught.value.fix, "which needs CUDA"
    assert "entry point group nemo_pi.backends" in caught.value.fix


def test_a_plan_imports_no_package_that_no_key_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "acme", "raise RuntimeError('imported')", PLUG_INS, {"quick": "QUICK"})
    render_plan(run_of({"norm_backend": "torch"}))
    with pytest.raises(ConfigError, match="did you mean quick"):
        resolve_kernels(replace(ModelConfig(), norm_backend="quik"))
    assert "acme" not in sys.modules
    with pytest.raises(
        ConfigError, match=r"^model\.norm_backend: .*by acme 1\.2\); given RuntimeError: import"
    ):
        run_of({"norm_backend": "quick"})
