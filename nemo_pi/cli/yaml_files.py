"""YAML files as Hydra reads them, looked at first: what is wrong is said with its line, in words of ours."""

from __future__ import annotations

import os
from pathlib import Path

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult

from nemo_pi.bounded.files import read_bytes
from nemo_pi.bounded.yaml_text import MOST_BYTES, check_yaml, described
from nemo_pi.errors import ConfigError, NemoPiError

_MOST_INTERPOLATIONS = 1000
"""In one file: OmegaConf takes a millisecond to read each."""


class YamlFiles(FileConfigSource):
    """Hydra's source of files, within the bounds of `nemo_pi.bounded.yaml_text`."""

    def load_config(self, config_path: str) -> ConfigResult:
        """As Hydra's.

        Raises:
            ConfigError: naming the file, and the line where there is one.
        """
        path = Path(os.path.join(self.path, self._normalize_file_name(config_path)))
        try:
            if path.exists():  # a file that is missing is Hydra's to miss
                _check(path)
            return super().load_config(config_path)
        except (NemoPiError, HydraException):
            raise
        except Exception as error:  # yaml, OmegaConf and the file system raise families of their own
            said = described(error) if isinstance(error, yaml.YAMLError) else str(error)
            lines = said.splitlines() or [type(error).__name__]
            raise ConfigError(
                str(path),
                required="a YAML file in UTF-8, of `key: value` lines",
                given=lines[0],
                fix="correct the file (two spaces indent, never a tab), or name another",
            ) from error


def _check(path: Path) -> None:
    text = check_yaml(read_bytes(path, MOST_BYTES))
    if (number := text.count("${")) > _MOST_INTERPOLATIONS:
        raise ValueError(f"{number:,} interpolations")


def read_yaml_files_so() -> None:
    """Takes effect for every configuration that this process composes; call it before Hydra does."""
    Plugins.instance()  # registers Hydra's own sources, which would otherwise come later
    SourcesRegistry.instance().types[FileConfigSource.scheme()] = YamlFiles
