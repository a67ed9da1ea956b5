"""The table of backends: an explicit request never degrades, and what cannot run is ruled out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_pi.errors import BackendUnavailableError, ConfigError
from nemo_pi.kernels import native
from nemo_pi.kernels.backends import (
    JOBS,
    PLUG_INS,
    candidates,
    check_available,
    choose,
    field_of,
    names,
    register,
    unregister,
)
from nemo_pi.kernels.needs import ActivationNeeds, AttentionNeeds, Capability, Needs, NormNeeds, ProductNeeds
from nemo_pi.kernels.registry import Backend
from tests.plug_ins import install

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


KINDS = [
    ("norm", "native", NormNeeds(width=256, norm="LayerNorm"), "it computes RMSNorm, not LayerNorm"),
    ("activation", "native", ActivationNeeds(width=688, gated=False), "it computes gated silu, not silu"),
    (
        "activation",
        "transformer_engine",  # whose gelu is the approximation by tanh
        ActivationNeeds(width=688, function="gelu", device_type="cuda", engine_layers=True),
        "it computes gated gelu_tanh, gated silu, gelu_tanh, not gated gelu",
    ),
    (
        "activation",
        "megatron",
        ActivationNeeds(width=688, function="relu2", gated=False, device_type="cuda"),
        "not relu2",
    ),
]


@pytest.mark.parametrize(("job", "name", "needs", "reason"), KINDS)
def test_kinds_of_norms_and_activations(job: str, name: str, needs: Needs, reason: str) -> None:
    """Who cannot compute one says so, and auto takes one that can."""
    (backend,) = [backend for backend in candidates(job) if backend.name == name]
    assert reason in str(backend.unusable(needs))
    if needs.device_type == "cpu":
        assert choose(job, "auto", needs).name == "torch"
        with pytest.raises(BackendUnavailableError, match=reason):
            choose(job, name, needs)


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


def test_a_refusal_reads_as_a_sentence(toy: Backend) -> None:
    with pytest.raises(BackendUnavailableError) as caught:
        choose("norm", "toy", Needs(width=7))
    assert str(caught.value).startswith(
        "model.norm_backend: required a backend that can run here, for 7 channels, torch.float32 on cpu; "
        "given toy, which cannot: it takes multiples of 2 channels, not 7. "
        "To fix: write auto, or one that can run here (torch"
    )


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


PACKAGE = """
from nemo_pi.kernels.needs import Capability
from nemo_pi.kernels.registry import Backend

def quick():
    import a_library_that_is_not_there

def obstacle():
    return {}["reason"]

QUICK = Backend("quick", "norm", Capability(multiple_of=2), quick)
STUCK = Backend("stuck", "norm", Capability(), quick, obstacle=obstacle)
ODD = Backend("odd", "sorting", Capability(), quick)
"""


def test_another_package_s_backend_is_imported_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, "acme", PACKAGE, PLUG_INS, {"quick": "QUICK", "auto": "QUICK"})
    assert choose("norm", "auto", NEEDS["norm"]).name != "quick"
    assert choose("norm", "torch", NEEDS["norm"]).name == "torch"
    assert names("norm")[-1] == "quick" and "quick" not in [one.name for one in candidates("norm")]
    with pytest.raises(ConfigError, match="required auto or one of"):
        choose("norm", "quik", NEEDS["norm"])
    assert "acme" not in sys.modules
    check_available("norm", "quick")
    choice = choose("norm", "quick", NEEDS["norm"])
    assert choice.name == "quick" and "acme" in sys.modules
    with pytest.raises(BackendUnavailableError, match="multiples of 2 channels, not 7"):
        choose("norm", "quick", Needs(width=7))
    assert "quick" not in choose("norm", "auto", NEEDS["norm"]).said, "asked for once, it is not auto's"
    with pytest.raises(ConfigError, match=r"^model\.norm_backend: .*by acme 1\.2.*ModuleNotFoundError"):
        choice.backend.load()


@pytest.mark.parametrize(
    ("job", "name", "target", "message"),
    [
        ("norm", "gone", "GONE", r"required a Backend whose name is 'gone' \(acme:GONE.*AttributeError"),
        ("norm", "other", "QUICK", "a Backend with the name 'quick'"),
        ("norm", "odd", "ODD", "a job of attention, norm, .*given 'sorting'"),
        ("softmax", "quick", "QUICK", r"one for norm. To fix: write model\.norm_backend=quick, and auto"),
        ("norm", "torch", "QUICK", r"'torch' from acme 1\.2, which nemo_pi has already"),
    ],
)
def test_a_broken_package_stops_who_asks_for_it(
    job: str, name: str, target: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, "acme", PACKAGE, PLUG_INS, {name: target})
    choose(job, "auto", NEEDS[job])
    with pytest.raises(ConfigError, match=message) as caught:
        check_available(job, name)
    assert caught.value.field == field_of(job) and "acme 1.2" in str(caught.value)


def test_an_obstacle_that_fails_is_its_package_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "acme", PACKAGE, PLUG_INS, {"stuck": "STUCK"})
    with pytest.raises(ConfigError, match=r"an obstacle\(\) that says .*by acme 1\.2\); given KeyError"):
        choose("norm", "stuck", NEEDS["norm"])


def test_other_ranks_may_know_more_names() -> None:
    elsewhere = {"acme": "on rank 1: it is not installed", "torch": "on rank 1: broken"}
    choice = choose("norm", "auto", NEEDS["norm"], elsewhere=elsewhere)
    assert choice.name not in ("acme", "torch")
    with pytest.raises(BackendUnavailableError, match="on rank 1: broken"):
        choose("norm", "torch", NEEDS["norm"], elsewhere=elsewhere)
    with pytest.raises(ConfigError, match="auto or one of"):
        choose("norm", "acme", NEEDS["norm"], elsewhere=elsewhere)
