"""A run computes with the backends that it began with."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_pi.kernels import native
from nemo_pi.kernels.backends import PLUG_INS
from nemo_pi.model.backends import choose_backends
from nemo_pi.model.options import BackendRequests
from nemo_pi.nemo.backends import AS_IT_BEGAN, as_recorded
from tests.plug_ins import install
from tests.unit.config.builders import run_of

WORK = run_of().engine.workload()
RECORDED = {
    "rotary": "torch",
    "attention": "sdpa",
    "norm": "torch",
    "activation": "torch",
    "softmax": "torch",
}


def test_recorded_names_take_the_place_of_auto() -> None:
    requests = as_recorded(BackendRequests(), {**RECORDED, "sorting": "quick"}, WORK)
    assert requests == BackendRequests(**RECORDED, settled=dict.fromkeys(RECORDED, AS_IT_BEGAN))
    described = choose_backends(WORK, requests).describe()
    assert described["attention"] == f"sdpa ({AS_IT_BEGAN})" and described["matmul"] == "torch (auto)"


def test_the_yaml_overrules_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    requests = as_recorded(BackendRequests(attention="native", norm="torch"), RECORDED, WORK)
    assert (requests.attention, requests.norm) == ("native", "torch")
    assert "norm" not in requests.settled
    (record,) = caplog.records
    assert "trained with sdpa and goes on with native" in record.getMessage()


def test_what_cannot_run_here_is_chosen_anew_with_a_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "obstacle", lambda: "NEMO_PI_NATIVE=0 turns them off")
    requests = as_recorded(BackendRequests(), {"norm": "native", "softmax": "quantum"}, WORK)
    assert requests.norm == "auto" and choose_backends(WORK, replace(requests, softmax="auto")).load("norm")
    assert "trained with native, which cannot run here (NEMO_PI_NATIVE=0" in caplog.text
    assert "quantum" in caplog.text and requests.softmax == "auto"


def test_a_choice_is_kept_as_requests_by_name() -> None:
    """What the first rank chose is what the engine is built of, whatever is measured by then."""
    chosen = choose_backends(WORK, BackendRequests(matmul="torch"))
    again = choose_backends(WORK, chosen.requests())
    assert again.names() == chosen.names() and again.describe() == chosen.describe()


def test_a_package_s_backend_goes_on_where_the_yaml_names_it(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert as_recorded(BackendRequests(), {"norm": "quick"}, WORK).norm == "auto"
    assert "install the package that registers it under the entry point group nemo_pi.backends" in caplog.text
    source = (
        "from nemo_pi.kernels.needs import Capability\nfrom nemo_pi.kernels.registry import Backend\n"
        "QUICK = Backend('quick', 'norm', Capability(), lambda: None)\n"
    )
    install(tmp_path, monkeypatch, "acme", source, PLUG_INS, {"quick": "QUICK"})
    assert as_recorded(BackendRequests(), {"norm": "quick"}, WORK).norm == "auto"
    assert "acme 1.2" in caplog.text and "model.norm_backend=quick" in caplog.text
    assert "acme" not in sys.modules
    caplog.clear()
    requests = as_recorded(BackendRequests(norm="quick"), {"norm": "quick"}, WORK)
    assert choose_backends(WORK, requests).names()["norm"] == "quick"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
