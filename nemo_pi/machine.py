"""The machine and the versions that a number belongs to."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_VERSIONED = ("nemo_pi", "torch", "transformers", "megatron-core", "nemo_toolkit")
_ZEN = (
    (23, 0x00, 0x2F, "Zen"),
    (23, 0x30, 0xFF, "Zen 2"),
    (25, 0x10, 0x1F, "Zen 4"),
    (25, 0x60, 0xAF, "Zen 4"),
    (25, 0x00, 0xFF, "Zen 3"),
    (26, 0x00, 0xFF, "Zen 5"),
)
"""Family, first and last model, and the name of AMD's cores; the first that fits."""


def describe_environment() -> dict[str, str]:
    """What a report says of where and when its numbers were measured: date, processor, GPUs, versions."""
    import torch

    now, kind = datetime.now(timezone.utc), cpu_kind()
    found = {
        "date": f"{now.day} {now:%B %Y, %H:%M} UTC",
        "processor": f"{cpu_name()}{kind and f' ({kind})'}, {os.cpu_count()} threads",
        "threads used": str(torch.get_num_threads()),
    }
    if torch.cuda.is_available():
        found["GPUs"] = f"{torch.cuda.device_count()} × {torch.cuda.get_device_name()}"
    found["system"] = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    found["packages"] = ", ".join(
        f"{name} {number}" for name in _VERSIONED if (number := _version(name)) is not None
    )
    return found


def cpu_name() -> str:
    """The processor as its maker calls it."""
    return cpuinfo().get("model name") or platform.processor() or platform.machine()


def cpu_kind() -> str:
    """The kind of the cores, which makers' names often leave out: `Zen 4`, or family and model elsewhere."""
    info = cpuinfo()
    numbers = [info.get(name, "") for name in ("cpu family", "model")]
    if not all(number.isdigit() for number in numbers):
        return ""
    family, model = map(int, numbers)
    if info.get("vendor_id") == "AuthenticAMD":
        for known, first, last, name in _ZEN:
            if family == known and first <= model <= last:
                return name
    return f"family {family} model {model}"


@cache
def cpuinfo() -> dict[str, str]:
    """What Linux says of the first processor, by its names for it (`flags`, ...); nothing elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
