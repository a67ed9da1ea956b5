"""What packages register: listed without importing, one owner a name, and foreign errors as ours."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from pathlib import Path

import pytest

from nemo_pi.errors import CheckpointError, ConfigError, NemoPiError
from nemo_pi.plug_ins import PlugIns
from tests.plug_ins import install


class Tool(ABC):
    """What a package may register here."""

    name = ""

    @abstractmethod
    def work(self) -> int: ...


SOURCE = """
from tests.unit.test_plug_ins import Tool

class Saw(Tool):
    name = "saw"

    def work(self):
        return 1

SAW = Saw()
"""


@pytest.fixture
def tools() -> PlugIns[Tool]:
    return PlugIns("nemo_pi.tools", kind="tool", expected=Tool, built_in=("axe",))  # type: ignore[type-abstract]


def add(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    tools: PlugIns[Tool],
    source: str = SOURCE,
    module: str = "acme",
    **entries: str,
) -> None:
    install(folder / module, monkeypatch, module, source, tools, entries)


def test_names_are_listed_without_an_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tools: PlugIns[Tool]
) -> None:
    assert tools.names() == () and tools.class_named("saw") is None and tools.object_named("saw") is None
    add(tmp_path, monkeypatch, tools, "raise SystemExit", saw="Saw", axe="Saw", drill="Drill")
    assert tools.names() == ("drill", "saw"), "ours are not theirs to register"
    assert tools.provider("saw") == "acme 1.2"
    assert tools.provider("axe") is None and tools.provider("hammer") is None
    tools.check_claims("saw")
    assert "acme" not in sys.modules


def test_only_what_is_asked_for_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tools: PlugIns[Tool]
) -> None:
    add(tmp_path, monkeypatch, tools, saw="Saw")
    add(tmp_path, monkeypatch, tools, "raise RuntimeError", "broken", drill="Drill")
    found = tools.class_named("saw")
    assert found is not None and found().work() == 1
    assert tools.class_named("saw") is found
    assert "acme" in sys.modules and "broken" not in sys.modules


def test_an_object_is_had_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tools: PlugIns[Tool]
) -> None:
    add(tmp_path, monkeypatch, tools, saw="SAW")
    found = tools.object_named("saw")
    assert found is sys.modules["acme"].SAW
    assert tools.object_named("saw") is found


@pytest.mark.parametrize(
    ("source", "target", "given"),
    [
        ("raise RuntimeError('no GPU')", "Saw", "RuntimeError: no GPU"),
        ("import a_module_that_is_not_there", "Saw", "ModuleNotFoundError: No module named 'a_module_that"),
        ("import sys; sys.exit(3)", "Saw", "SystemExit: 3"),
        ("def x(: pass", "Saw", "SyntaxError"),
        ("", "Saw", "AttributeError"),
        ("Saw = 1", "Saw", "1"),
        ("class Saw: name = 'saw'", "Saw", "<class 'acme.Saw'>"),
        (SOURCE, "SAW", "<acme.Saw object"),
        (SOURCE.replace('"saw"', '"drill"'), "Saw", "Saw with the name 'drill'"),
    ],
)
def test_whatever_a_package_gets_wrong_names_it(
    source: str,
    target: str,
    given: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tools: PlugIns[Tool],
) -> None:
    add(tmp_path, monkeypatch, tools, source, saw=target)
    with pytest.raises(ConfigError) as caught:
        tools.class_named("saw")
    assert caught.value.field == "tool saw" and str(caught.value.given).startswith(given)
    assert f"(acme:{target}, registered by acme 1.2)" in caught.value.required
    assert caught.value.fix == "update or uninstall acme 1.2, or name another tool"
    with pytest.raises(ConfigError, match=r"^model\.tool: "):
        tools.class_named("saw", "model.tool")


def test_an_object_of_another_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tools: PlugIns[Tool]
) -> None:
    add(tmp_path, monkeypatch, tools, saw="Saw", drill="SAW")
    with pytest.raises(ConfigError, match=r"a Tool whose name is 'drill' .*given a Saw with the name 'saw'"):
        tools.object_named("drill")
    with pytest.raises(ConfigError, match=r"a Tool whose name is 'saw' .*given <class 'acme\.Saw'>"):
        tools.object_named("saw")


def test_a_name_has_one_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tools: PlugIns[Tool]) -> None:
    add(tmp_path, monkeypatch, tools, saw="Saw", axe="Saw", drill="SAW")
    add(tmp_path, monkeypatch, tools, SOURCE, "second", saw="Saw")
    for ask in (tools.check_claims, tools.class_named, tools.object_named):
        with pytest.raises(ConfigError, match=r"'saw' from \w+ 1\.2, which \w+ 1\.2 has already") as caught:
            ask("saw")
        assert "acme 1.2" in caught.value.given and "second 1.2" in caught.value.given
        with pytest.raises(ConfigError, match=r"'axe' from acme 1\.2, which nemo_pi has already"):
            ask("axe")
    tools.check_claims("drill")  # those who ask for another name are left alone
    assert "acme" not in sys.modules and "second" not in sys.modules


def test_a_package_that_is_found_twice_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tools: PlugIns[Tool]
) -> None:
    add(tmp_path / "sources", monkeypatch, tools, saw="Saw")
    add(tmp_path / "installed", monkeypatch, tools, saw="Saw")
    assert tools.class_named("saw") is not None


def test_what_runs_later_is_blamed_on_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = PlugIns("nemo_pi.tools", kind="tool", expected=dict, built_in=(), error=CheckpointError)
    install(tmp_path, monkeypatch, "acme", "", tools, {"saw": "Saw"})
    with (
        pytest.raises(CheckpointError, match=r"required 1 \(acme:Saw.*given ZeroDivisionError") as caught,
        tools.blamed("saw", "1", "model.tool"),
    ):
        1 / 0  # noqa: B018
    assert caught.value.field == "model.tool" and isinstance(caught.value.__cause__, ZeroDivisionError)
    error = tools.broken("saw", "a number", "none")
    assert isinstance(error, NemoPiError) and error.given == "none" and "acme 1.2" in error.required


def test_who_had_it_is_named_where_nobody_has() -> None:
    tools = PlugIns("nemo_pi.tools", kind="tool", expected=dict, built_in=())
    fix = "install the package that registers it under the entry point group nemo_pi.tools"
    assert tools.how_to_get() == fix
    assert tools.how_to_get("acme 1.2") == f"{fix} ('acme 1.2' did)"
