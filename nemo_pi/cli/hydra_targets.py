"""What a configuration may tell Hydra itself: nothing that names code.

Hydra builds what `hydra.callbacks`, `hydra.sweeper` and `hydra.launcher` name, and Python's logging what
`hydra.job_logging` and `hydra.hydra_logging` name, before the program that reads the configuration runs at
all. So the configuration is composed once beforehand, which imports nothing that it names, and its hydra
section must hold Hydra's own choices there. NEMO_PI_HYDRA_TARGETS=1 lets other ones through.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any, TypeVar

from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_automatic_config_search_path, get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, RangeSweep
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from nemo_pi.config.plain import check_expansion
from nemo_pi.errors import ConfigError

T = TypeVar("T")
SWITCH = "NEMO_PI_HYDRA_TARGETS"
"""Environment variable; 1 allows callbacks, launchers, sweepers and loggers that are not Hydra's own."""

_OWN = {
    "launcher": "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "sweeper": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
}
MOST_JOBS = 1000
"""Runs of one command."""
_LOGGING = ("hydra_logging", "job_logging")


def check_command_line(task_file: str, config_path: str, config_name: str, arguments: Sequence[str]) -> None:
    """Composes what Hydra is about to, and refuses code in it, before Hydra runs any.

    Args:
        task_file: Python file of the function that Hydra calls.
        config_path: folder of its YAMLs, relative to that file.
        config_name: the YAML that --config-name replaces.
        arguments: the command line, as Hydra will read it.

    Raises:
        ConfigError: naming the key.
        HydraException: what cannot be composed, as Hydra would raise it.
    """
    args = get_args_parser().parse_args(arguments)
    if os.environ.get(SWITCH) == "1":
        return
    if args.experimental_rerun is not None:
        raise _refused(
            "--experimental-rerun",
            "a command line and YAMLs: a pickle can hold code",
            args.experimental_rerun,
        )
    path = config_path if args.config_path is None else args.config_path
    search_path = create_automatic_config_search_path(task_file, None, path)
    if args.config_dir is not None:
        search_path.prepend("command-line", f"file://{os.path.abspath(args.config_dir)}")
    name = config_name if args.config_name is None else args.config_name
    hydra = Hydra.create_main_hydra2("check", search_path)
    try:
        check_places(hydra, name, args.overrides)
        # The mode that refuses least: a choice of several values is not known to be one yet.
        cfg = hydra.compose_config(name, args.overrides, RunMode.MULTIRUN, validate_sweep_overrides=False)
        check_expansion(cfg)
        check_hydra(cfg.hydra)
        if args.multirun or cfg.hydra.mode == RunMode.MULTIRUN:
            for job in _jobs(hydra, cfg):
                check_hydra(hydra.config_loader.load_sweep_config(cfg, job).hydra)
    finally:
        GlobalHydra.instance().clear()


def names_no_code(config_path: str, config_name: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """A decorator around hydra_runner: check_command_line of the function's own file, before Hydra starts."""

    def decorate(runner: Callable[..., T]) -> Callable[..., T]:
        task_file = inspect.getfile(inspect.unwrap(runner))

        @functools.wraps(runner)
        def wrapper(*args: object, **kwargs: object) -> T:
            check_command_line(task_file, config_path, config_name, sys.argv[1:])
            return runner(*args, **kwargs)

        return wrapper

    return decorate


def check_hydra(section: DictConfig) -> None:
    """Refuses a composed `hydra` section that names code other than Hydra's own.

    Raises:
        ConfigError: naming the key.
    """
    if callbacks := _raw(section, "callbacks"):
        raise _refused("hydra.callbacks", "no callbacks", callbacks)
    for key, own in _OWN.items():
        for path, name, value in _entries({key: _raw(section, key)}, "hydra"):
            named = name == "_target_" and (path, value) != (f"hydra.{key}._target_", own)
            if named or (isinstance(value, str) and "${" in value):  # which could stand for anything
                raise _refused(path, f"Hydra's own {key} ({own}) and plain values", value)
    for key in _LOGGING:
        if _without_levels(_raw(section, key)) not in _own_logging(key):
            raise _refused(
                f"hydra.{key}", "one of Hydra's own (hydra/job_logging=default, none, …)", "another one"
            )
    copied = {name: os.environ.get(name) for name in section.job.env_copy}
    for name, value in section.job.env_set.items():
        if name not in copied or copied[name] != value:
            raise _refused(f"hydra.job.env_set.{name}", "no change of the environment", value)


def check_places(hydra: Hydra, config_name: str, overrides: Sequence[str]) -> None:
    """Refuses places of YAMLs that are Python modules, which composing would import to look into.

    Hydra reads `hydra.searchpath` on the command line and in the first YAML, nowhere else.

    Args:
        hydra: initialised, nothing composed yet.
        config_name: the first YAML.
        overrides: of the command line.

    Raises:
        ConfigError: naming the place.
    """
    if os.environ.get(SWITCH) == "1":
        return
    given = OverridesParser.create(config_loader=hydra.config_loader).parse_overrides(list(overrides))
    found: list[Any] = [
        override.value() for override in given if override.get_key_element() == "hydra.searchpath"
    ]
    loaded = hydra.config_loader.repository.load_config(config_name)  # type: ignore[attr-defined]
    if loaded is not None and isinstance(loaded.config, DictConfig):
        found.append(OmegaConf.select(loaded.config, "hydra.searchpath"))
    for entry in (entry for entries in found if entries is not None for entry in entries):
        scheme, separator, _ = str(entry).partition("://")
        if separator and scheme != "file":
            required = "folders (file://…): looking into a module imports it"
            raise _refused("hydra.searchpath", required, entry)


def _jobs(hydra: Hydra, cfg: DictConfig) -> list[list[str]]:
    """The overrides of every job of a multirun, as Hydra's own sweeper deals them."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    params = cfg.hydra.sweeper.get("params") or {}
    words = [f"{key}={value}" for key, value in params.items()] + list(cfg.hydra.overrides.task)
    overrides = OverridesParser.create(config_loader=hydra.config_loader).parse_overrides(words)
    if (number := math.prod(map(_choices, overrides))) > MOST_JOBS:
        raise ConfigError(
            "--multirun",
            required=f"at most {MOST_JOBS:,} runs",
            given=f"values for {number:,}",
            fix="give fewer values at a time",
        )
    return [job for batch in BasicSweeper.split_arguments(overrides, None) for job in batch]


def _choices(override: Override) -> int:
    """How many values a word of the command line gives, without making them."""
    value = override.value()
    if isinstance(value, ChoiceSweep):
        return len(value.list)
    if isinstance(value, RangeSweep):
        start, stop, step = value.start or 0, value.stop or 0, value.step
        return max(0, math.ceil((stop - start) / step)) if step else MOST_JOBS + 1
    return 1


def _raw(section: DictConfig, key: str) -> Any:
    """A part as it stands, interpolations as their text."""
    node = section._get_node(key)
    return OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node


def _entries(values: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield f"{path}.{key}", str(key), value
            yield from _entries(value, f"{path}.{key}")
    elif isinstance(values, list | tuple):
        for index, value in enumerate(values):
            yield from _entries(value, f"{path}[{index}]")


@functools.cache
def _own_logging(key: str) -> tuple[Any, ...]:
    """Hydra's own YAMLs of a logging section."""
    folder = files("hydra.conf") / "hydra" / key
    texts = [file.read_text() for file in folder.iterdir() if file.name.endswith(".yaml")]
    return tuple(_without_levels(OmegaConf.to_container(OmegaConf.create(text))) for text in texts)


def _without_levels(values: Any) -> Any:
    """Levels are anyone's to choose, and name nothing."""
    if isinstance(values, Mapping):
        return {key: _without_levels(value) for key, value in values.items() if key != "level"}
    return values


def _refused(field: str, required: str, given: Any) -> ConfigError:
    return ConfigError(
        field,
        required=required,
        given=str(given)[:200],
        fix=f"remove the key, or set {SWITCH}=1 in the environment where you trust what it names",
    )
