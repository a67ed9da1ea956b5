"""Imports every module of nemo_pi, as the user who will run the image, and says what the image accelerates.

Run while the image is built, so it needs no GPU: packages that want a driver are looked for, not imported.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any


def is_nvidia_apex(find: Callable[[str], Any] = find_spec) -> bool | None:
    """Whether `apex` is NVIDIA's; None where there is none. The public package of that name is another."""
    if find("apex") is None:
        return None
    return find("apex.normalization") is not None and find("apex.optimizers") is not None


def import_all(package: str) -> int:
    """Import every module below `package`; returns how many there are."""
    names = [
        module.name
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}.")
    ]
    for name in names:
        importlib.import_module(name)
    return len(names)


def main() -> int:
    """Fail with a message where anything is not as it should be."""
    import torch

    apex = is_nvidia_apex()
    if apex is False:
        print(
            "apex in this image is not NVIDIA's: uninstall it, or build NVIDIA's from source", file=sys.stderr
        )
        return 1
    print(f"torch {torch.__version__} (CUDA {torch.version.cuda}) from {torch.__file__}")
    for name, there in (
        ("NVIDIA apex", apex is True),
        ("Transformer Engine", find_spec("transformer_engine") is not None),
        ("Triton", find_spec("triton") is not None),
    ):
        print(f"{name}: {'there' if there else 'not there'}")
    print(f"imported {import_all('nemo_pi')} modules of nemo_pi")
    return 0


if __name__ == "__main__":
    sys.exit(main())
