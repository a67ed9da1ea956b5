"""How a model of ours comes back from a .nemo file, and which of NeMo's ways into it are closed.

NeMo's own way builds what `target`, `cls` or `_target_` name before a model sees the configuration. Here the
configuration has to be a model section of ours, nothing that it names is imported, and the class that is
built is the one that was asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from nemo.core.classes import ModelPT
from nemo.core.connectors.save_restore_connector import SaveRestoreConnector
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from nemo_pi.checkpoint.safe_pickle import load_archive
from nemo_pi.errors import ConfigError
from nemo_pi.families.shape import ModelShape
from nemo_pi.nemo.archive import (
    CONFIG_MEMBER,
    WEIGHTS_MEMBER,
    check_holds,
    check_model_config,
    checked_tensors,
    classes_of,
    opened_archive,
    read_config,
    read_config_file,
    read_weights,
    refused,
)

_BY_A_RUN = "put the checkpoint's folder into restore_from_path of a run"


class CheckedConnector(SaveRestoreConnector):
    """NeMo's connector, reading through this file's checks; it writes what NeMo's own writes."""

    def load_config_and_state_dict(
        self,
        calling_cls: Any,
        restore_path: str,
        override_config_path: DictConfig | str | None = None,
        map_location: Any = None,
        strict: bool = True,
        return_config: bool = False,
        trainer: Any = None,
        validate_access_integrity: bool = True,
    ) -> Any:
        """The configuration, a new `calling_cls` made from it, and the weights to load into it.

        Args:
            override_config_path: a model section, or the path of one, in place of the archive's own.
            return_config: return the configuration alone.

        Raises:
            CheckpointError: the archive holds anything but a configuration of ours and tensors.
        """
        path, classes = Path(restore_path), classes_of(calling_cls)
        config: Any
        if override_config_path is None:
            config = OmegaConf.create(read_config(path, classes))
        elif isinstance(override_config_path, str | Path):
            config = OmegaConf.create(read_config_file(Path(override_config_path), classes))
        else:
            config = OmegaConf.create(OmegaConf.to_container(override_config_path, resolve=True))
        if "model" in config:  # as NeMo's: a whole run's YAML may stand in for its model section
            config = config.model
        if return_config:
            return config
        weights = read_weights(path)
        try:
            check_holds(calling_cls.shape_of(config), weights, path)
            model = calling_cls.from_config_dict(config=config, trainer=trainer)
        except ConfigError as error:
            raise refused(path, error.required, error.given, f"{CONFIG_MEMBER}: {error.field}") from error
        return config, model if map_location is None else model.to(map_location), weights

    @staticmethod
    def _unpack_nemo_file(path2file: str, out_folder: str, members: Any = None) -> str:
        """Where NeMo unpacks archives (`extract_state_dict_from`): the two members, checked."""
        with opened_archive(Path(path2file)) as archive:
            for member in archive.getmembers():
                if member.isfile():
                    archive.extract(member, out_folder, filter="data")
        return out_folder

    @staticmethod
    def _load_state_dict_from_disk(model_weights: str, map_location: Any = "cpu") -> dict[str, Tensor | None]:
        """Where NeMo reads weights: tensors alone, whatever the environment allows torch to unpickle."""
        return checked_tensors(load_archive(Path(model_weights), WEIGHTS_MEMBER), Path(model_weights))


class SafelyRestoredModel(ModelPT):
    """A NeMo model whose files are data; to be subclassed."""

    @classmethod
    def restore_from(
        cls, *args: Any, save_restore_connector: SaveRestoreConnector | None = None, **kwargs: Any
    ) -> Any:
        """As NeMo's: the model of a .nemo file, on one rank; nothing that the file names is imported.

        Raises:
            CheckpointError: the file holds anything but a configuration of ours and tensors.
            ConfigError: a connector of someone else's, which would read the file its own way.
        """
        connector = _checked(save_restore_connector)
        return super().restore_from(*args, save_restore_connector=connector, **kwargs)

    @classmethod
    def extract_state_dict_from(
        cls,
        restore_file: str,
        save_dir: str,
        split_by_module: bool = False,
        save_restore_connector: SaveRestoreConnector | None = None,
    ) -> Any:
        """As NeMo's: the weights of a .nemo file, written to `save_dir` as torch's files.

        Raises:
            CheckpointError, ConfigError: as restore_from.
        """
        connector = _checked(save_restore_connector)
        return super().extract_state_dict_from(restore_file, save_dir, split_by_module, connector)

    @classmethod
    def shape_of(cls, config: DictConfig) -> ModelShape:
        """What the model of a section will be, for subclasses to say; nothing is built for it.

        Raises:
            ConfigError: a section that is none of ours.
        """
        raise NotImplementedError

    @classmethod
    def from_config_dict(cls, config: DictConfig, trainer: Trainer | None = None) -> Any:
        """A `cls` with random weights from a model section; a class that the section names is not built.

        Raises:
            CheckpointError: a key that names code.
            ConfigError: a section that is none of ours.
        """
        values = OmegaConf.to_container(config, resolve=True)
        assert isinstance(values, dict)
        check_model_config(values, "model", classes_of(cls))
        values.pop("target", None)
        return cls(cfg=OmegaConf.create(values), trainer=trainer)

    @classmethod
    def from_config_file(cls, path2yaml_file: str) -> Any:
        """from_config_dict of a YAML file."""
        return cls.from_config_dict(OmegaConf.create(read_config_file(Path(path2yaml_file), classes_of(cls))))

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Not offered: nothing is downloaded."""
        raise _not_offered("from_pretrained", "download the .nemo file and give it to restore_from")

    @classmethod
    def load_from_checkpoint(cls, *args: Any, **kwargs: Any) -> Any:
        """Not offered: Lightning's checkpoints are pickles, and a run writes none."""
        raise _not_offered(
            "load_from_checkpoint", "put the checkpoint folder into restore_from_path of a run"
        )

    def maybe_init_from_pretrained_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Not offered: as the two above."""
        raise _not_offered(
            "maybe_init_from_pretrained_checkpoint",
            "put the checkpoint folder into restore_from_path of a run",
        )


def _checked(connector: SaveRestoreConnector | None) -> CheckedConnector:
    if connector is None:
        return CheckedConnector()
    if not isinstance(connector, CheckedConnector) or connector.model_extracted_dir is not None:
        raise ConfigError(
            "save_restore_connector",
            required="none, or nemo_pi.nemo.archive.CheckedConnector without a model_extracted_dir",
            given=type(connector).__name__,
            fix="leave it out and give the .nemo file itself",
        )
    return connector


def _not_offered(name: str, fix: str) -> ConfigError:
    return ConfigError(name, required="another way to start from a checkpoint", given=name, fix=fix)
