"""What pip may and may not touch in an image that brings its own torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from docker.hold_back import canonical, installed_versions, merged, moved, pins

ROOT = Path(__file__).resolve().parents[3]
TESTED = [
    "# a comment",
    "torch==2.13.0",
    "numpy==2.4.6",
    "Lightning==2.4.0",
    "packaging==24.2",
    "triton==3.7.1",
    "",
]
IMAGE = {
    "torch": "2.10.0a0+b4e4ee81d3",
    "numpy": "1.26.4",
    "packaging": "25.0",
    "transformer-engine": "2.10.0",
    "nvidia-dali-cuda130": "1.52.0",
    "jupyterlab": "4.4",
}


def test_merged() -> None:
    assert merged(TESTED, IMAGE) == [
        "lightning==2.4.0",  # lacking in the image: as tested
        "numpy==1.26.4",  # held: compiled against
        "nvidia-dali-cuda130==1.52.0",
        "torch==2.10.0a0+b4e4ee81d3",
        "transformer-engine==2.10.0",
        # packaging and jupyterlab are left to pip; triton follows the image's torch and is not forced on it
    ]


def test_an_image_without_torch_is_refused() -> None:
    with pytest.raises(ValueError, match="no torch"):
        merged(TESTED, {"numpy": "1.26.4"})


def test_moved_packages_are_named() -> None:
    constraints = merged(TESTED, IMAGE)
    assert moved(constraints, {**IMAGE, "lightning": "2.4.1", "packaging": "24.2"}) == []
    gone = {name: version for name, version in IMAGE.items() if name != "transformer-engine"}
    assert moved(constraints, {**gone, "torch": "2.13.0"}) == [
        "torch: was 2.10.0a0+b4e4ee81d3, is 2.13.0",
        "transformer-engine: was 2.10.0, is gone",
    ]


@pytest.mark.parametrize("name", ["apex", "torch", "pytorch-triton", "flash-attn-3", "nvidia-cudnn-cu13"])
def test_held_whatever_is_tested(name: str) -> None:
    lines = merged([f"{name}==0.0.1"], {"torch": "2.10", name: "9.9"})
    assert f"{name}==9.9" in lines


@pytest.mark.parametrize("name", ["torchmetrics", "pytorch-lightning", "cudnnless", "tensorboard"])
def test_names_that_only_look_like_torch_are_not_held(name: str) -> None:
    assert merged([], {"torch": "2.10", name: "1.0"}) == ["torch==2.10"]


def test_pins_and_names() -> None:
    assert list(pins(["A.b_C==1.0  # why", "d>=2", "#e==3"])) == [("a-b-c", "1.0")]
    assert canonical("nv-one_logger.core") == "nv-one-logger-core"
    assert installed_versions()["torch"]


def test_check_passes_here_and_fails_on_a_change(tmp_path: Path) -> None:
    script = ROOT / "docker" / "hold_back.py"
    run = [sys.executable, str(script)]
    merge = subprocess.run([*run, str(ROOT / "constraints.txt")], capture_output=True, text=True, check=True)
    file = tmp_path / "merged.txt"
    file.write_text(merge.stdout)
    assert f"torch=={installed_versions()['torch']}" in merge.stdout.splitlines()
    assert subprocess.run([*run, "--check", str(file)], capture_output=True).returncode == 0
    file.write_text("torch==0.1\n")
    assert subprocess.run([*run, "--check", str(file)], capture_output=True).returncode == 1
