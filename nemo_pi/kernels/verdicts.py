"""What races found out (kernels/race.py), kept for the next run on the same kind of processor.

A small JSON file in the user's cache folder: $NEMO_PI_CACHE, else $XDG_CACHE_HOME/nemo_pi, else
~/.cache/nemo_pi. NEMO_PI_CACHE=0 keeps nothing on disk. A file that cannot be read is ignored and written
anew; where none can be written, the next run races again. Nothing in it but names and seconds is believed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from nemo_pi.kernels import native
from nemo_pi.machine import cpuinfo

PLACE = "NEMO_PI_CACHE"
"""Environment variable: the folder of the file; 0 or nothing for no file."""
FILE = "backends.json"
_FORMAT = 1
# Verdicts that a file holds at most, the newest; a few hundred bytes each. A larger file is not ours.
_MOST, _MOST_BYTES = 1000, 1 << 22
_known: dict[str, dict[str, float]] = {}


def key(job: str, needs: str, names: Sequence[str]) -> str:
    """What a verdict is about: the work and the candidates, the processor, its threads and the versions."""
    return f"{machine()}; {torch.get_num_threads()} threads; {job}: {needs}; {' '.join(names)}"


def find(about: str, names: Sequence[str]) -> dict[str, float] | None:
    """A verdict by this process or an earlier one; None where there is none, or none that can be believed."""
    if about not in _known:
        found: Any = _read().get(about)
        if not _is_verdict(found, names):
            return None
        _known[about] = dict(found)
    return _known[about]


def keep(about: str, seconds: Mapping[str, float], *, on_disk: bool = True) -> None:
    """Remembers a verdict, on disk as well where that is wanted and possible."""
    _known[about] = dict(seconds)
    folder = _folder() if on_disk else None
    if folder is None:
        return
    every = {name: value for name, value in _read().items() if name != about}
    every[about] = dict(seconds)
    # What is written anew goes to the end, so the first ones are the oldest.
    newest = dict(list(every.items())[-_MOST:])
    draft = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Renamed into its place, so that no process ever reads half a file.
        handle, draft = tempfile.mkstemp(dir=folder, prefix=FILE)
        with open(handle, "w", encoding="utf-8") as file:
            json.dump({"format": _FORMAT, "verdicts": newest}, file, indent=1)
        os.replace(draft, folder / FILE)
    except OSError:
        if draft is not None:
            with suppress(OSError):
                os.unlink(draft)


def forget() -> None:
    """Forgets what this process knows; files stay."""
    _known.clear()


def _read() -> dict[str, Any]:
    folder = _folder()
    try:
        if folder is None or (folder / FILE).stat().st_size > _MOST_BYTES:
            return {}
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # RecursionError: thousands of nested brackets
        return {}
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        return {}
    found = content.get("verdicts")
    return found if isinstance(found, dict) else {}


def _is_verdict(found: Any, names: Sequence[str]) -> bool:
    return (
        isinstance(found, dict)
        and len(found) > 0
        and all(name in names for name in found)
        and all(type(value) is float and math.isfinite(value) and value > 0 for value in found.values())
    )


def _folder() -> Path | None:
    place = os.environ.get(PLACE)
    if place is not None:
        return None if place in ("", "0") else Path(place)
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / "nemo_pi"
    try:
        return Path.home() / ".cache" / "nemo_pi"
    except RuntimeError:  # no home folder
        return None


@cache
def machine() -> str:
    """The kind of processor, and the versions of what computes on it."""
    try:
        own = version("nemo_pi")
    except PackageNotFoundError:
        own = "not installed"
    return f"{processor()}; torch {torch.__version__}; nemo_pi {own}, kernels {native.build()}"


@cache
def processor() -> str:
    """Vendor, family, model, stepping and a hash of the flags, as Linux tells them; elsewhere the name."""
    first = cpuinfo()
    if not first:
        return f"{platform.processor()} {platform.machine()}".strip()
    flags = hashlib.sha256(first.get("flags", first.get("Features", "")).encode()).hexdigest()[:12]
    wanted = ("vendor_id", "cpu family", "model", "stepping")
    return " ".join([*(first.get(name, "?") for name in wanted), flags])
