from __future__ import annotations

import os
import re
from importlib.metadata import version

from nemo_pi.machine import cpu_name, describe_environment


def test_the_environment_is_described() -> None:
    found = describe_environment()
    assert re.fullmatch(r"\d+ [A-Z][a-z]+ \d{4}, \d\d:\d\d UTC", found["date"])
    assert cpu_name() and found["processor"].startswith(cpu_name())
    assert found["processor"].endswith(f"{os.cpu_count()} threads")
    assert f"torch {version('torch')}" in found["packages"]
