"""The manifest: what it must say, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nemo_pi.checkpoint.manifest import build_manifest, check_sizes, file_entries, read_manifest
from nemo_pi.errors import CheckpointError

META: dict[str, Any] = {"shape": {}, "extension": {}, "global_step": 1, "consumed_samples": 8, "note": "kept"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a").write_text("abc")
    manifest = build_manifest(META, file_entries(tmp_path, ["a"]))
    (tmp_path / "nemo_pi.json").write_text(json.dumps(manifest))
    return tmp_path


def test_it_says_what_it_was_told_and_which_versions_wrote_it(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert {key: manifest[key] for key in META} == META
    # The digest of "abc" in FIPS 180-2.
    assert manifest["files"]["a"] == {
        "bytes": 3,
        "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    }
    assert manifest["versions"]["torch"].startswith("2.")
    check_sizes(folder, manifest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "something else"}, "format"),
        ({"format_version": 2}, "version at most 1"),
        ({"global_step": -1}, "global_step"),
        ({"global_step": True}, "global_step"),
        ({"consumed_samples": "8"}, "consumed_samples"),
        ({"files": []}, "files"),
        ({"shape": None}, "shape"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict, message: str, folder: Path) -> None:
    path = folder / "nemo_pi.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=message):
        read_manifest(folder)


def test_what_json_cannot_hold_is_refused_before_the_save() -> None:
    with pytest.raises(CheckpointError, match="values that JSON can hold"):
        build_manifest({**META, "path": Path("a")}, {})


@pytest.mark.parametrize("content", ["", "[]", "{", "\xff"])
def test_a_broken_one(content: str, folder: Path) -> None:
    (folder / "nemo_pi.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"nemo_pi\.json"):
        read_manifest(folder)


def test_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="given none"):
        read_manifest(tmp_path)
    with pytest.raises(CheckpointError, match="no such folder"):
        read_manifest(tmp_path / "missing")
