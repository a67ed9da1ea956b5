"""NeMo's exp_manager section: names and types as NeMo has them, and only what is done here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from nemo_pi.config.foreign_keys import EXP_MANAGER
from nemo_pi.config.merge import check_keys, convert
from nemo_pi.errors import ConfigError

_PARAMS = "checkpoint_callback_params"
_DURATION = re.compile(r"\s*\d+:\d\d:\d\d:\d\d\s*")

_PACKAGES = {
    "create_wandb_logger": "wandb",
    "create_mlflow_logger": "mlflow",
    "create_clearml_logger": "clearml",
    "create_neptune_logger": "neptune",
    "create_dllogger_logger": "dllogger",
    "create_straggler_detection_callback": "nvidia_resiliency_ext",
    "create_fault_tolerance_callback": "nvidia_resiliency_ext",
}
"""What needs a package of its own."""
_NAMED = {"wandb": ("name", "project"), "mlflow": ("experiment_name",)}
"""What a logger's own section must say."""
# Arguments of Lightning's TensorBoardLogger and of the writer that it hands the others to.
_WRITER = (
    *("version", "log_graph", "default_hp_metric", "prefix", "sub_dir"),
    *("comment", "purge_step", "max_queue", "flush_secs", "filename_suffix"),
)
# What NeMo's YAMLs may leave empty, and what an empty text would make a path of.
_MEAN_NOTHING = ("exp_manager.checkpoint_callback_params.dirpath",)

# What asks for something that is not done here, and where it is found instead.
_NOT_DONE = {
    "resume_from_checkpoint": "resume_if_exists=true goes on with a run; restore_from_path starts a new one",
    "ema.enable": "remove the key: averages of weights are not kept",
    f"{_PARAMS}.always_save_nemo": "set it to false; model.save_to makes a .nemo file",
    f"{_PARAMS}.save_nemo_on_train_end": "set it to false; model.save_to makes a .nemo file",
    f"{_PARAMS}.save_best_model": "set it to false: the newest checkpoints are kept",
    f"{_PARAMS}.save_weights_only": "set it to false; model.export.hf_path writes weights alone",
    f"{_PARAMS}.async_save": "set it to false: a checkpoint is written before the next step",
    f"{_PARAMS}.train_time_interval": "give every_n_train_steps",
}


def check_exp_manager(exp_manager: Mapping[str, Any]) -> None:
    """Refuse keys that NeMo's exp_manager does not have, values of another type, and what is not done here.

    Raises:
        ConfigError: naming the key; of the nearest valid one, the type, or the way to the same end.
    """
    check_duration("exp_manager.max_time_per_run", exp_manager.get("max_time_per_run"))
    _check_section(exp_manager, EXP_MANAGER, "exp_manager")
    _check_names(exp_manager)
    _check_loggers(exp_manager)
    for key, fix in _NOT_DONE.items():
        section, _, name = key.rpartition(".")
        inner = (exp_manager.get(section) or {}) if section else exp_manager
        if inner.get(name):
            raise ConfigError(f"exp_manager.{key}", required="null or false", given=inner[name], fix=fix)
    params = exp_manager.get(_PARAMS) or {}
    for name, least, meaning in (
        ("every_n_train_steps", 0, "0 or null saves at the end only"),
        ("save_top_k", -1, "-1 keeps all"),
    ):
        value = params.get(name)
        if value is not None and convert(value, int, f"exp_manager.{_PARAMS}.{name}") < least:
            field = f"exp_manager.{_PARAMS}.{name}"
            raise ConfigError(field, required=f"at least {least}", given=value, fix=f"{field}={meaning}")


def check_name(key: str, name: Any) -> None:
    """Refuses a name that leads out of the folder that a run's folder shall be in.

    Raises:
        ConfigError: naming the key.
    """
    parts = str(name).split("/")
    if name is None or (isinstance(name, str) and name and not {"", "..", "."} & set(parts)):
        return
    raise ConfigError(
        key,
        required="a name, which becomes a folder below exp_manager.exp_dir",
        given=repr(name)[:200],
        fix="write a name alone, and the folder around it into exp_manager.exp_dir",
    )


def _check_names(exp_manager: Mapping[str, Any]) -> None:
    for key in ("name", "version"):
        if exp_manager.get(key) != "":
            check_name(f"exp_manager.{key}", exp_manager.get(key))
    for key in ("exp_dir", "explicit_log_dir"):
        if exp_manager.get(key) == "":
            fix = f"exp_manager.{key}=null takes the default"
            raise ConfigError(f"exp_manager.{key}", required="a folder", given="''", fix=fix)


def _check_loggers(exp_manager: Mapping[str, Any]) -> None:
    """Refuses what NeMo would stop at later: loggers that are not installed, or have no name."""
    for key, package in _PACKAGES.items():
        if exp_manager.get(key) and find_spec(package) is None:
            raise ConfigError(
                f"exp_manager.{key}",
                required=f"the package {package}, which it is done with",
                given="not installed",
                fix=f"pip install {package.replace('_', '-')}, or exp_manager.{key}=false",
            )
    for logger, names in _NAMED.items():
        kwargs = exp_manager.get(f"{logger}_logger_kwargs")
        kwargs = kwargs if isinstance(kwargs, Mapping) else {}
        if exp_manager.get(f"create_{logger}_logger") and not any(kwargs.get(name) for name in names):
            raise ConfigError(
                f"exp_manager.{logger}_logger_kwargs",
                required=f"{' and '.join(names)}, under which the run is kept",
                given="neither" if len(names) > 1 else "none",
                fix=", ".join(f"exp_manager.{logger}_logger_kwargs.{name}=NAME" for name in names),
            )
    writer = exp_manager.get("summary_writer_kwargs")
    if isinstance(writer, Mapping):
        check_keys(writer, _WRITER, "exp_manager.summary_writer_kwargs")


def check_duration(key: str, value: Any) -> None:
    """Refuse a wall-clock limit that Lightning's timer does not understand."""
    if value is None or (isinstance(value, str) and _DURATION.fullmatch(value)):
        return
    raise ConfigError(
        key,
        required="days, hours, minutes and seconds as text: 'dd:hh:mm:ss'",
        given=f"{value!r} ({type(value).__name__})",
        fix="write it with quotes, such as '00:03:45:00'; null sets no limit",
    )


def _check_section(values: Mapping[str, Any], known: Mapping[str, Any], path: str) -> None:
    """Names and plain types of a section and of the sections inside it."""
    check_keys(values, known, path)
    for key, value in values.items():
        kind = known[key]
        if value is None or kind is None:
            continue
        if value == "" and f"{path}.{key}" not in _MEAN_NOTHING:
            continue  # NeMo's own defaults have some, where they add nothing to a name
        if not isinstance(kind, Mapping):
            convert(value, kind, f"{path}.{key}")
        elif isinstance(value, Mapping):
            _check_section(value, kind, f"{path}.{key}")
        else:
            raise ConfigError(
                f"{path}.{key}",
                required="a section of `key: value` lines",
                given=repr(value),
                fix="write keys and values under it, or null",
            )
