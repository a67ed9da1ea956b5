"""The measures' command, its page, and what it must never find."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools import house
from tools.recipes import RECIPES, Recipe

ROOT = Path(__file__).resolve().parents[3]
NEW = ("softened", "acme", "exact_attention")
"""What the recipes' examples are called."""
_FILE = re.compile(r"`([\w/<>]+\.(?:py|yaml|md))`|\]\(([\w/<>]+\.(?:py|yaml|md))\)")


def test_no_cycle_no_upward_import_and_the_page_has_the_tables() -> None:
    assert house.complaints() == []


def test_a_page_without_the_table_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "design.md"
    page.write_text(f"before\n{house.BEGIN}\n{house.END}\nafter\n")
    monkeypatch.setattr(house, "PAGE", page)
    assert any("design.md lacks" in complaint for complaint in house.complaints())
    house.write(house.render(None))
    assert house.complaints() == []
    assert page.read_text().startswith("before\n") and page.read_text().endswith("\nafter\n")


def test_it_runs_as_a_file() -> None:
    command = [sys.executable, str(ROOT / "tools" / "house.py"), "--check"]
    assert subprocess.run(command, cwd=ROOT.parent, capture_output=True, check=True).returncode == 0


def section_of(recipe: Recipe) -> str:
    """The recipe's own words."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return re.split(r"^##", text.partition(f"### Add a {recipe.adds}\n")[2], flags=re.MULTILINE)[0]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.adds)
def test_a_recipe_s_files_are_those_it_names(recipe: Recipe) -> None:
    """All of them, and no other but those that it only mentions."""
    named = {path or link for path, link in _FILE.findall(section_of(recipe))}
    for path in (*recipe.library, *recipe.beside):
        found = {name for name in named if path == name or path.endswith(f"/{name}")}
        assert found, f"{path} is not in the recipe"
        named -= found
    assert named <= set(recipe.mentions)
    for path in (*recipe.library, *recipe.beside):
        new = "<" in path or path.removesuffix(".yaml").removesuffix(".py").endswith(NEW)
        assert new or (ROOT / path).is_file(), path


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.adds)
def test_the_door_writes_exactly_these(recipe: Recipe) -> None:
    """A door's test is the recipe in a package of its own, or compares which files changed."""
    test = (ROOT / recipe.door).read_text(encoding="utf-8")
    if "assert changed ==" in test:
        changed = [ROOT / path for path in re.findall(r'^\w+ = Path\("([^"]+)"\)', test, re.MULTILINE)]
        assert changed == [ROOT / path for path in (*recipe.library, *recipe.beside)]
    else:
        assert len(re.findall(r"\binstall\(|\.py\"\)\.write_text\(", test)) == recipe.modules > 0
        assert recipe.library[0] in section_of(recipe)
