"""The image's smoke test: it must fail on a stranger's apex and on a module that cannot be imported."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from docker.smoke import import_all, is_nvidia_apex


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        (set(), None),
        ({"apex", "apex.normalization", "apex.optimizers"}, True),
        ({"apex", "apex.blogs"}, False),
    ],
)
def test_is_nvidia_apex(there: set[str], expected: bool | None) -> None:
    def find(name: str) -> Any:
        return name if name in there else None

    assert is_nvidia_apex(find) is expected


def test_import_all_reaches_every_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "planted" / "inner"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    (package / "leaf.py").write_text("import os")
    monkeypatch.syspath_prepend(tmp_path)
    assert import_all("planted") == 2
    assert "planted.inner.leaf" in sys.modules

    (package / "broken.py").write_text("import no_such_module")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        import_all("planted")
