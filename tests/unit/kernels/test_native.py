"""The compiled kernels: they are there where they should be, and say why where they are not."""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path

import pytest
import torch

from nemo_pi.errors import BackendUnavailableError
from nemo_pi.kernels import native
from nemo_pi.kernels.capability import RotaryNeeds
from nemo_pi.kernels.rotary import select_rotary_kernel

EXPECTED = (
    sys.platform.startswith("linux")
    and platform.machine() == "x86_64"
    and shutil.which("gcc") is not None
    and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
)


@pytest.fixture
def forgotten() -> object:
    """Nothing is known of the library, before the test or after it."""
    native._load.cache_clear()
    yield
    native._load.cache_clear()


@pytest.mark.skipif(not EXPECTED, reason="no C compiler, or no processor with AVX2")
def test_they_are_installed() -> None:
    """Or every other test here would be skipped, and nobody would notice."""
    assert native.obstacle() is None


@pytest.mark.usefixtures("forgotten")
def test_the_switch_turns_them_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.SWITCH, "0")
    assert native.obstacle() == "NEMO_PI_NATIVE=0 turns them off"
    assert not native.usable_for(torch.ones(1))
    assert select_rotary_kernel("auto", RotaryNeeds(head_dim=72)).name == "torch"
    with pytest.raises(BackendUnavailableError, match=r"rotary_kernel: .*given native, which cannot: "):
        select_rotary_kernel("native", RotaryNeeds(head_dim=72))
    with pytest.raises(BackendUnavailableError, match="NEMO_PI_NATIVE=0"):
        native.library()


@pytest.mark.usefixtures("forgotten")
def test_a_slower_processor_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert "PyTorch calls this one DEFAULT" in str(native.obstacle())


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize(
    ("content", "reason"), [(None, "without a C compiler"), (b"not a library", "cannot be loaded")]
)
def test_a_library_that_is_not_there(
    content: bytes | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(native, "__file__", str(tmp_path / "native.py"))
    if content is not None:
        (tmp_path / "_native.so").write_bytes(content)
    assert reason in str(native.obstacle())


def test_they_take_fp32_on_cpus() -> None:
    ones = torch.ones(2)
    assert native.usable_for(ones, ones) is (native.obstacle() is None)
    assert not native.usable_for(ones, ones.double()) and not native.usable_for(ones.to("meta"))
