"""LongRoPE's search on several ranks against one: the same lists in the same order, the same YAML."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nemo_pi.cli.search import FOUND, RATINGS
from tests.integration.launch import ROOT, launch
from tests.integration.world import World

SCRIPT = ROOT / "examples" / "search_longrope.py"
# Of three windows, two replicas have unequal shares.
SMALL = (
    *("--target-window", "256", "--samples", "3", "--population", "5", "--iterations", "1", "--parents", "3"),
    *("--mutations", "2", "--crossovers", "2", "--results", "search"),
)


def search(world: World, name: str, *more: str, ranks: int) -> Path:
    """Folder of results."""
    arguments = [
        *(str(world.models["untied"]), "--tokenizer", str(ROOT / "demo" / "model")),
        *("--documents", str(ROOT / "demo" / "text" / "valid.jsonl.xz"), *SMALL, *more),
    ]
    folder = world.folder / f"search-{name}"
    launch(arguments, folder=folder, ranks=ranks, script=SCRIPT).check()
    return folder / "search"


@pytest.fixture(scope="module")
def alone(world: World) -> Path:
    return search(world, "alone", ranks=1)


LAYOUTS = {
    "dp2": (),
    "tp2": ("--tensor-model-parallel-size", "2"),
    "pp2": ("--pipeline-model-parallel-size", "2"),
    "cp2": ("--context-parallel-size", "2"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ranks_find_what_one_finds(world: World, alone: Path, layout: str) -> None:
    shared = search(world, layout, *LAYOUTS[layout], ranks=2)
    wanted, found = (
        [json.loads(line) for line in (folder / RATINGS).read_text().splitlines()[1:]]
        for folder in (alone, shared)
    )
    assert [one["hundredths"] for one in found] == [one["hundredths"] for one in wanted]
    assert len(found) == 5 + 4
    for one, other in zip(found, wanted, strict=True):
        assert one["perplexity"] == pytest.approx(other["perplexity"], rel=1e-6)
    files = [(folder / "rope" / f"{FOUND}.yaml").read_text().splitlines() for folder in (alone, shared)]
    lines, wanted_lines = ([line for line in text if not line.startswith("#")] for text in files)
    assert lines == wanted_lines
