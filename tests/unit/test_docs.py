"""The documentation: links lead somewhere, every page can be found, and commands would be taken."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from nemo_pi.cli import advise, evaluate, generate, preprocess, search, verify
from nemo_pi.config.load import merge

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "demo" / "README.md"])
FENCED = re.compile(r"^```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE)
SCRIPT = re.compile(r"examples/([a-z_]+)\.py|examples/slurm/(render)\.py|(extend_context)\.sbatch")


def links(page: Path) -> Iterator[tuple[str, str]]:
    """(target file, anchor) of every link within the repository; either may be empty."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            name, _, anchor = target.partition("#")
            yield name, anchor


def anchors(page: Path) -> set[str]:
    """What its headings are linked by."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for name, anchor in links(page):
        target = page.parent / name if name else page
        assert target.exists(), f"{name} is not there"
        assert not anchor or anchor in anchors(target), f"{name} has no heading #{anchor}"


def test_every_page_is_in_the_index_and_says_for_whom_it_is() -> None:
    index = ROOT / "docs" / "README.md"
    listed = {(index.parent / name).resolve() for name, _ in links(index)}
    for page in set((ROOT / "docs").glob("*.md")) - {index}:
        assert page in listed, f"{page.name} is not in docs/README.md"
        opening = page.read_text(encoding="utf-8").split("\n\n")[1]
        assert opening.startswith("For "), f"{page.name} does not say for whom it is"


def commands() -> Iterator[Any]:
    """Every command line of our own scripts in a fenced block, a case for each."""
    for page in PAGES:
        for block in FENCED.findall(page.read_text(encoding="utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                found = SCRIPT.search(line)
                if found and "..." not in line:
                    arguments = shlex.split(line[found.end() :].partition(">")[0], comments=True)
                    name = next(filter(None, found.groups()))
                    yield pytest.param(name, arguments, id=f"{page.stem}-{name}")


def parser_of(script: str) -> Callable[[], Any]:
    """What reads a script's command line from sys.argv."""
    if script == "preprocess_data":
        return preprocess.parser().parse_args
    parsers = {"evaluate": evaluate, "generate": generate, "verify": verify, "search_longrope": search}
    parsers["advise"] = advise
    if script in parsers:
        return parsers[script].parse
    path = next((ROOT / "examples").rglob(f"{script}.py"))
    spec = importlib.util.spec_from_file_location(f"documented_{script}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    parse: Callable[[], Any] = module.parse
    return parse


@pytest.mark.parametrize(("script", "arguments"), commands())
def test_commands_are_taken(script: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if script != "extend_context":
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        parser_of(script)()
        return
    config = "extend_context"
    if arguments[:1] == ["--config-name"]:
        config, arguments = arguments[1], arguments[2:]
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        merge(compose(config, overrides=[*arguments, "dry_run=true"]))


def test_commands_are_found() -> None:
    assert {"extend_context", "evaluate", "generate", "convert_checkpoint", "preprocess_data", "render"} <= {
        case.values[0] for case in commands()
    }
