"""Imports run one way: a file imports from its own package or from a lower floor, and from known packages.

What is read, and the floors themselves: tools/imports.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tools.imports import FLOORS, imported_modules, module_of, room_of, sources

ROOT = Path(__file__).resolve().parents[2]

# Import name → the distribution that brings it, as setup.py names it. NVIDIA apex has no distribution to
# name; pytest's plugins and the like have no business in the library.
KNOWN_PACKAGES = {
    "torch": "torch",
    "nemo": "nemo_toolkit",
    "megatron": "megatron-core",
    "lightning": "lightning",
    "hydra": "hydra-core",
    "omegaconf": "omegaconf",
    "yaml": "PyYAML",
    "transformers": "transformers",
    "tokenizers": "tokenizers",
    "safetensors": "safetensors",
    "sentencepiece": "sentencepiece",
    "numpy": "numpy",
    "psutil": "psutil",
    "tqdm": "tqdm",
    "gguf": "gguf",
    "rouge_score": "rouge-score",
    "wonderwords": "wonderwords",
    "lm_eval": "lm-eval",
    "matplotlib": "matplotlib",
    "transformer_engine": "transformer-engine",
    "triton": "triton",
    "apex": None,
}
# The bundled demo's own scripts stand beside examples/, which may use them.
BESIDE_EXAMPLES = {"demo", "evidence"}


def complaints(source: str, module: str, is_package: bool = False) -> list[str]:
    """Every arrow in `source` that the floors forbid and every package that nobody declared."""
    own = room_of(module)
    if own is not None and own not in FLOORS:
        return [f"{module}: {own} stands on no floor: add it to FLOORS"]
    found = []
    for line, name in imported_modules(source, module, is_package):
        top = name.split(".")[0]
        if top in ("nemo_pi", "examples"):
            other = room_of(name)
            # `from nemo_pi import __version__` names no room: the package itself is below everything.
            if other is None or other == "__version__" or other == own:
                continue
            if other not in FLOORS:
                found.append(f"{module}:{line}: {name} stands on no floor: add it to FLOORS")
            elif own is None or FLOORS[other] >= FLOORS[own]:
                mine = "the ground" if own is None else f"{own} (floor {FLOORS[own]})"
                found.append(f"{module}:{line}: {mine} imports {other} (floor {FLOORS[other]})")
        elif top in BESIDE_EXAMPLES and own == "examples":
            continue
        elif top not in sys.stdlib_module_names and top not in KNOWN_PACKAGES:
            found.append(f"{module}:{line}: unknown package {top}: declare it in setup.py and here")
    return found


def test_imports_run_downwards() -> None:
    found, files = [], sources(ROOT)
    for path in files:
        module, is_package = module_of(path, ROOT)
        found += complaints(path.read_text(encoding="utf-8"), module, is_package)
    assert found == []
    assert len(files) > 100, "the library was not found"


def test_every_package_has_a_floor() -> None:
    packages = {
        path.name for path in (ROOT / "nemo_pi").iterdir() if path.is_dir() and any(path.glob("*.py"))
    }
    assert packages <= set(FLOORS)


def test_known_packages_are_declared() -> None:
    declared = (ROOT / "setup.py").read_text(encoding="utf-8")
    for distribution in filter(None, KNOWN_PACKAGES.values()):
        assert f'"{distribution}' in declared, f"setup.py does not declare {distribution}"


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("nemo_pi.rope.spec", "from nemo_pi.model.gpt import Model"),  # upwards
        ("nemo_pi.rope.spec", "import nemo_pi.engine.engine"),
        ("nemo_pi.rope.spec", "from nemo_pi import model"),  # a package named as an attribute
        ("nemo_pi.rope.spec", "def late():\n    from nemo_pi.config import load"),  # inside a function
        ("nemo_pi.rope.spec", "from ..kernels import reference"),  # relative
        ("nemo_pi.data.samples", "from nemo_pi.checkpoint.summary import read_summary"),  # same floor
        ("nemo_pi.engine.engine", "import examples.demo"),
        ("nemo_pi.errors", "from nemo_pi.rope.spec import METHODS"),
        ("nemo_pi", "from nemo_pi.rope.spec import METHODS"),  # the ground reaches for a floor
        ("nemo_pi.model.gpt", "import demo.corpus"),
        ("nemo_pi.model.gpt", "import pandas"),  # undeclared
        ("nemo_pi.attic.junk", "import os"),  # a package without a floor
        ("nemo_pi.model.gpt", "from nemo_pi.attic import junk"),
    ],
)
def test_a_bad_arrow_is_seen(module: str, source: str) -> None:
    assert len(complaints(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "is_package", "source"),
    [
        ("nemo_pi.rope.spec", False, "from nemo_pi.errors import ConfigError"),
        ("nemo_pi.rope.yarn", False, "from . import spec\nfrom .frequencies import f"),
        ("nemo_pi.rope", True, "from .spec import METHODS\nfrom nemo_pi.rope.spec import METHODS"),
        (
            "nemo_pi.model.gpt",
            False,
            "import torch.nn\nfrom megatron.core import parallel_state\nimport os.path",
        ),
        ("examples.demo", False, "from demo.corpus import TEXT\nfrom nemo_pi.engine import engine"),
        ("nemo_pi.launch.job", False, "from nemo_pi import __version__"),
    ],
)
def test_a_good_arrow_is_let_through(module: str, is_package: bool, source: str) -> None:
    assert complaints(source, module, is_package) == []
