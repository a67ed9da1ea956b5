"""Packages for entry points, installed as pip would leave them: a module, its metadata, its entry points."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from nemo_pi.plug_ins import PlugIns


def install(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    source: str,
    plug_ins: PlugIns[Any],
    entries: Mapping[str, str],
) -> None:
    """Makes a distribution importable and registered for the rest of one test.

    Args:
        folder: an empty folder; it is put onto sys.path.
        module: name of the module, and of the distribution (version 1.2).
        source: its Python source.
        plug_ins: of the registry that shall find it; what it has loaded is forgotten.
        entries: name in that group → object within the module.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{module}.py").write_text(source, encoding="utf-8")
    info = folder / f"{module}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.2\n")
    lines = [f"{name} = {module}:{target}" for name, target in entries.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{plug_ins.group}]", *lines, ""]))
    monkeypatch.setattr(plug_ins, "_loaded", {})
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setitem(sys.modules, module, None)  # so that whatever is imported is forgotten afterwards
    monkeypatch.delitem(sys.modules, module)
