"""Our exports as transformers 4.45 to 5.23 read them: numbers that those computed, kept in tests/golden."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_pi.rope.hf import OTHER_WINDOWS
from nemo_pi.rope.tables import attention_factor, inverse_frequencies
from tests.golden.make_readers import EXPORTS, LENGTHS, PATH, configs, extension_of

GOLDEN: dict[str, Any] = json.loads(PATH.read_text())
VERSIONS = list(GOLDEN["read"])
# What docs/methods.md says of readers that have no words for an export.
LONG_ALWAYS, SHORT_ALWAYS = ("4.45.2", "4.47.1"), ("4.48.3", "4.49.0")
TRUNCATES = tuple(version for version in VERSIONS if version <= "4.54.1")
PAGE = Path(__file__).resolve().parents[4] / "docs" / "methods.md"


def reads_otherwise(version: str, name: str, length: int) -> bool:
    """Whether this reader is known to compute other positions."""
    if EXPORTS[name][0] == "longrope":
        return version in (LONG_ALWAYS if length <= 64 else SHORT_ALWAYS)
    return name == "yarn without truncation" and version in TRUNCATES


def test_the_numbers_are_of_what_is_written_today() -> None:
    """Else take them anew: python -m tests.golden.make_readers. Keys for servers alone may come and go."""
    written, taken = json.loads(json.dumps(configs())), copy.deepcopy(GOLDEN["configs"])
    for config in (*written.values(), *taken.values()):
        for key in OTHER_WINDOWS:
            config.pop(key, None)
    assert written == taken
    assert VERSIONS[0].startswith("4.45.") and VERSIONS[-1].startswith("5.23.")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", EXPORTS)
def test_every_reader_computes_our_positions(name: str, version: str) -> None:
    spec, read = extension_of(name), GOLDEN["read"][version][name]
    if name == "proportional" and version < "5.23":
        assert read == {"refused": "KeyError"}, "a newer type: refused, not misread"
        return
    for length in LENGTHS:
        angle_F = inverse_frequencies(spec, length).double() * (length - 1)
        factor = attention_factor(spec, length)
        ours = torch.stack([angle_F.cos(), angle_F.sin()]) * factor
        gap = (torch.tensor(read[str(length)], dtype=torch.float64) - ours).abs().max()
        # A dynamic base is stretched in fp32 there.
        assert (gap > 1e-3) == reads_otherwise(version, name, length), (length, float(gap))


def test_the_page_says_which_readers_differ() -> None:
    table = PAGE.read_text().partition("### Who reads what")[2].partition("\n## ")[0]
    said = {cells[1].strip(): cells[2] for line in table.splitlines() if len(cells := line.split("|")) > 2}
    assert "up to 4.47 takes the long" in said["LongRoPE"] and "4.48 and 4.49 the short" in said["LongRoPE"]
    assert "`truncate: false`, transformers up to 4.54" in said["YaRN"]
    assert "4 and 5.0 stop" in said["p-RoPE"]
    assert all(re.match(r"\d+\.\d+", version)[0] in table for version in VERSIONS)
