"""Constraints for pip in an image that brings its own torch.

    python docker/hold_back.py constraints.txt > merged.txt     # write them
    python docker/hold_back.py --check merged.txt               # after installing: was everything held?

torch and whatever is compiled against it, or brings CUDA, is held at the version in the image. What the image
lacks is taken as tested, from constraints.txt. Everything else that the image has is left to pip, which keeps
it as long as it satisfies the requirements.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import distributions
from pathlib import Path

HELD = re.compile(
    r"torch|torch(vision|audio|ao|data)|torch-tensorrt|(pytorch-)?triton|numpy|apex"
    r"|flash-attn.*|transformer-engine.*|nvidia-.*|cuda-.*|cupy.*"
)


def canonical(name: str) -> str:
    """A distribution's name as package sources compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_versions() -> dict[str, str]:
    """Version of every distribution in this environment, by canonical name."""
    return {
        canonical(found.metadata["Name"]): found.version
        for found in distributions()
        if found.metadata["Name"]
    }


def pins(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(canonical name, version) of every `name==version` line."""
    for line in lines:
        name, equals, version = line.partition("#")[0].strip().partition("==")
        if equals:
            yield canonical(name), version


def merged(tested: Iterable[str], installed: Mapping[str, str]) -> list[str]:
    """The constraint lines for an image that has `installed`; `tested` are the lines of constraints.txt.

    Raises ValueError without torch in the image: pip would then bring another one.
    """
    if "torch" not in installed:
        raise ValueError("the base image has no torch: take a PyTorch image as BASE")
    held = {name: version for name, version in installed.items() if HELD.fullmatch(name)}
    lacking = {name: version for name, version in pins(tested) if name not in installed}
    # The image's CUDA stack goes with its torch: nothing of ours may add to it unasked.
    lacking = {name: version for name, version in lacking.items() if not HELD.fullmatch(name)}
    return [f"{name}=={version}" for name, version in sorted({**held, **lacking}.items())]


def moved(constraints: Iterable[str], installed: Mapping[str, str]) -> list[str]:
    """Held packages that are no longer at their constraint."""
    return [
        f"{name}: was {version}, is {installed.get(name, 'gone')}"
        for name, version in pins(constraints)
        if HELD.fullmatch(name) and installed.get(name) != version
    ]


def main(arguments: list[str]) -> int:
    """Command line; see the top of this file."""
    lines = Path(arguments[-1]).read_text().splitlines()
    if arguments[0] == "--check":
        problems = moved(lines, installed_versions())
        print(
            "\n".join(problems) or "torch and what is compiled against it are as they were", file=sys.stderr
        )
        return 1 if problems else 0
    print("\n".join(merged(lines, installed_versions())))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
