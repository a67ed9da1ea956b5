"""A home folder where none is known."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from nemo_pi.cli.home import ensure_home


def test_a_home_that_is_known_stays(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    ensure_home()
    assert os.environ["HOME"] == "/somewhere" and capsys.readouterr().err == ""


def test_an_unknown_user_gets_one_and_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RuntimeError):
        Path.home()
    monkeypatch.setenv("HOME", "")  # so that both are put back
    monkeypatch.delenv("HOME")
    monkeypatch.setenv("USER", "")
    ensure_home()
    assert Path.home().parent == tmp_path and Path.home().is_dir()
    assert os.environ["USER"] == f"user-{os.getuid()}"
    assert str(Path.home()) in capsys.readouterr().err
    monkeypatch.delenv("HOME")
