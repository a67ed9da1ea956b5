"""YAML files as Hydra reads them: the same values, and what is wrong named with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry

from nemo_pi.cli.yaml_files import YamlFiles, read_yaml_files_so
from nemo_pi.errors import ConfigError

CONF = Path(__file__).parents[3] / "conf"


def test_values_are_hydra_s_own() -> None:
    files = [path.relative_to(CONF) for path in CONF.rglob("*.yaml")]
    assert len(files) > 20
    ours, theirs = (kind("test", str(CONF)) for kind in (YamlFiles, FileConfigSource))
    for path in files[::4]:
        assert ours.load_config(str(path)).config == theirs.load_config(str(path)).config


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: 1\n\tb: 2\n", "line 2, column 1: a tab"),
        (b"a: 1\na: 2\n", "line 2, column 1: found duplicate key a"),
        (b"\xff\xfea\0", "UTF-8"),
        (b"- 1\n", "key: value"),
        (b"a: !!python/name:os.system\n", "line 1"),
        (b"a: ${" + b"b" * 10 + b"\n", "a"),
        (b"a: '" + b"${" * 700 + b"}" * 700 + b"'\n", "main.yaml"),
        (b"a: '" + b"${b}" * 1001 + b"'\n", "1,001 interpolations"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "main.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        YamlFiles("test", str(tmp_path)).load_config("main")
    assert str(tmp_path / "main.yaml") in str(caught.value)


def test_hydra_takes_it() -> None:
    read_yaml_files_so()
    assert SourcesRegistry.instance().resolve("file") is YamlFiles
