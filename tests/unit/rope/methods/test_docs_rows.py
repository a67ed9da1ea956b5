"""docs/methods.md and conf/rope/ say of every method what the registry says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from nemo_pi.rope.hf import to_hf
from nemo_pi.rope.methods.base import ScalingMethod
from nemo_pi.rope.methods.registry import BUILT_IN
from nemo_pi.rope.spec import METHODS
from tests.unit.rope.peers import make_spec

ROOT = Path(__file__).resolve().parents[4]
PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")


def table(heading: str) -> dict[str, list[str]]:
    """First cell's names → cells of the first table after a heading of the page; continued rows joined."""
    rows: dict[str, list[str]] = {}
    names: list[str] = []
    for line in PAGE.partition(heading)[2].partition("\n## ")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| ") and not line.startswith(("| method", "|---")):
            names = re.findall(r"`(\w+)`", cells[0]) or names
            for name in names:
                rows[name] = [*rows.get(name, []), *cells[1:]]
        elif rows and not line.startswith("|"):
            return rows
    return rows


@pytest.mark.parametrize("method", BUILT_IN.values(), ids=lambda method: method.name)
def test_the_formula_is_the_method_s_own_words(method: type[ScalingMethod]) -> None:
    assert method.docs_row() in PAGE.splitlines()


def test_the_tables_name_every_method() -> None:
    assert {name: len(cells) for name, cells in table("## Which one").items()} == dict.fromkeys(METHODS, 2)
    assert list(table("## Formulas")) == [*METHODS]
    assert set(table("## What is exported")) == set(METHODS)
    assert {path.stem for path in (ROOT / "conf" / "rope").glob("*.yaml")} == set(METHODS)


@pytest.mark.parametrize("method", BUILT_IN.values(), ids=lambda method: method.name)
def test_every_argument_is_explained(method: type[ScalingMethod]) -> None:
    arguments = PAGE.partition("| method | `model.pos_scaling_extra_args`")[2].partition("\n\n")[0]
    settings = yaml.safe_load((ROOT / "conf" / "rope" / f"{method.name}.yaml").read_text(encoding="utf-8"))
    assert settings["pos_scaling_type"] == method.name
    assert set(settings.get("pos_scaling_extra_args", ())) == set(method.argument_names())
    for name in method.argument_names():
        assert f"`{name}`" in arguments


@pytest.mark.parametrize("method", METHODS)
def test_the_export_is_as_the_page_says(method: str) -> None:
    rope_type, window, _ = table("## What is exported")[method]
    entries = to_hf(make_spec(method))
    written = entries["rope_parameters"]["rope_type"]
    assert written in (re.findall(r"`(\w+)`", rope_type) or [method])
    assert entries["max_position_embeddings"] == (512 if "original" in window else 4096)
