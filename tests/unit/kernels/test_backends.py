"""The table of backends: an explicit request never degrades, and what cannot run is ruled out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from nemo_pi.errors import BackendUnavailableError, ConfigError
from nemo_pi.kernels import native
from nemo_pi.kernels.backends import JOBS, candidates, choose, field_of, register, unregister
from nemo_pi.kernels.needs import AttentionNeeds, Capability, Needs, ProductNeeds
from nemo_pi.kernels.registry import Backend

NEEDS: dict[str, Needs] = {
    "attention": AttentionNeeds(width=64, heads=4, groups=2),
    "norm": Needs(width=256),
    "activation": Needs(width=688),
    "softmax": Needs(width=2048),
    "matmul": ProductNeeds(width=256, outputs=(512, 1376)),
}
EVERYWHERE = [(job, backend) for job in JOBS for backend in candidates(job)]


def test_every_job_has_needs_here() -> None:
    assert set(NEEDS) == set(JOBS)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("job", "backend"), EVERYWHERE, ids=lambda x: getattr(x, "name", x))
def test_an_explicit_request_never_degrades(job: str, backend: Backend, device: str) -> None:
    """Whatever the machine has installed, a known name either works or says why not, and who can."""
    needs = replace(NEEDS[job], device_type=device)
    reason = backend.unusable(needs)
    if reason is None:
        assert choose(job, backend.name, needs).backend is backend
        return
    with pytest.raises(BackendUnavailableError) as caught:
        choose(job, backend.name, needs)
    assert caught.value.field == field_of(job) and reason in str(caught.value)
    able = [other.name for other in candidates(job) if other.unusable(needs) is None]
    assert f"({', '.join(able)})" in str(caught.value)


@pytest.mark.parametrize("job", JOBS)
def test_an_unknown_name(job: str) -> None:
    with pytest.raises(ConfigError, match=f"model.{job}_backend: required auto or one of"):
        choose(job, "fastest", NEEDS[job])


@pytest.mark.parametrize(
    ("job", "name", "changes", "reason"),
    [
        ("attention", "native", {"window": True}, "it knows no sliding window"),
        ("attention", "native", {"width": 40}, "multiples of 16 channels, not 40"),
        ("attention", "native", {"width": 512}, "up to 256 channels, not 512"),
        ("attention", "native", {"dtype": torch.bfloat16}, "does not take torch.bfloat16"),
        ("attention", "rows", {"split_rows": True}, "whole rows"),
        ("attention", "rows", {"device_type": "cuda"}, "it runs on cpu, not on cuda"),
        ("norm", "torch", {"engine_layers": True}, "bring their own"),
        ("norm", "transformer_engine", {"device_type": "cuda"}, "it comes with Transformer Engine's layers"),
        ("activation", "megatron", {}, "it runs on cuda, not on cpu"),
        ("matmul", "onednn", {"dtype": torch.float64}, "does not take torch.float64"),
    ],
)
def test_capabilities(job: str, name: str, changes: dict[str, Any], reason: str) -> None:
    (backend,) = [backend for backend in candidates(job) if backend.name == name]
    assert reason in str(backend.unusable(replace(NEEDS[job], **changes)))


@pytest.mark.parametrize("job", ["attention", "norm", "activation", "softmax"])
def test_ruling_native_kernels_out(job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "obstacle", lambda: "NEMO_PI_NATIVE=0 turns them off")
    assert choose(job, "auto", NEEDS[job]).name in ("sdpa", "torch")
    with pytest.raises(BackendUnavailableError, match="NEMO_PI_NATIVE=0"):
        choose(job, "native", NEEDS[job])


@pytest.mark.parametrize(("job", "name"), [("attention", "rows"), ("matmul", "onednn")])
def test_ruling_onednn_out(job: str, name: str) -> None:
    refused = pytest.raises(BackendUnavailableError, match=r"mkldnn is switched off|without oneDNN")
    with torch.backends.mkldnn.flags(enabled=False), refused:
        choose(job, name, NEEDS[job])


@pytest.fixture
def toy() -> Iterator[Backend]:
    backend = Backend("toy", "norm", Capability(multiple_of=2), lambda: torch.nn.functional.rms_norm)
    register(backend)
    yield backend
    unregister(backend)


def test_a_registered_backend_is_chosen_by_name_and_last_by_auto(toy: Backend) -> None:
    assert choose("norm", "toy", NEEDS["norm"]).backend is toy
    assert choose("norm", "auto", NEEDS["norm"]).name != "toy"
    with pytest.raises(BackendUnavailableError, match="multiples of 2 channels, not 7"):
        choose("norm", "toy", Needs(width=7))


def test_names_are_taken_once(toy: Backend) -> None:
    with pytest.raises(ConfigError, match="backend toy: name"):
        register(toy)
    with pytest.raises(ConfigError, match="backend auto: name"):
        register(replace(toy, name="auto"))
    with pytest.raises(ConfigError, match="backend other: job"):
        register(replace(toy, name="other", job="sorting"))


def test_auto_says_what_it_chose_and_why() -> None:
    needs = replace(NEEDS["norm"], width=40)
    choice = choose("norm", "auto", needs)
    assert choice.said.startswith("model.norm_backend: auto chose torch for 40 channels, torch.float32 on")
    assert "multiples of 16 channels, not 40" in choice.said
    named = choose("norm", "torch", needs)
    assert named.said.startswith("model.norm_backend: torch, as asked for, for 40 channels")
