"""Hydra around a command: a YAML, overrides in any spelling, and no files of Hydra's own.

As NeMo's hydra_runner, which takes seconds to import: the same flags, resolvers and silence about itself.
"""

from __future__ import annotations

import functools
import inspect
import operator
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from nemo_pi.cli.ends import reports_errors
from nemo_pi.cli.hydra_targets import names_no_code
from nemo_pi.cli.multirun import Sweep
from nemo_pi.cli.yaml_files import read_yaml_files_so
from nemo_pi.config.overrides import as_hydra, refusal, swept_keys
from nemo_pi.errors import ConfigError
from nemo_pi.parallel.launcher import is_global_zero
from nemo_pi.rope.validation import is_finite

# No folder of settings, no log file, no folder of its own for a run.
_HYDRA_KEEPS_STILL = (
    "hydra.output_subdir=null",
    "hydra/job_logging=stdout",
    "hydra.run.dir=.",
)
_HELP = """{script}

Files to choose from, GROUP=NAME:

$APP_CONFIG_GROUPS
Keys, KEY=VALUE, are explained beside their defaults: the run's in conf/extend_context.yaml and
conf/pretrain.yaml, the model's in conf/model/base.yaml. Flags: --cfg job prints the YAML that would be run,
--config-name NAME takes another of conf/, --config-path FOLDER your own, --multirun runs each of KEY=A,B;
--hydra-help lists Hydra's others.
"""
_CONFIG_FLAGS = ("--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd")
_FLAGS_WITH_A_VALUE = (*_CONFIG_FLAGS, "--cfg", "-c", "--package", "-p", "--experimental-rerun")


def hydra_runner(
    config_path: str, config_name: str
) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Runs a function on the configuration that Hydra composes from the command line.

    Args:
        config_path: folder of the YAMLs, relative to the file of the function.
        config_name: the one that --config-name replaces.

    Returns:
        A decorator. A mistake in the command line or a YAML ends the process as reports_errors does; what the
        function returns ends it with its `status`, where it has one. With --multirun the function is called
        for each run, in the folder that the command was started in, and a table compares what it returned.
    """

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], None]:
        state = _State()

        @functools.wraps(task)
        def called(cfg: DictConfig) -> None:
            if state.sweep is None:
                state.status = getattr(task(cfg), "status", 0)
            else:
                state.sweep.run(task, cfg, list(HydraConfig.get().overrides.task))

        composed = hydra.main(config_path, config_name, version_base=None)(reports_errors(called))
        checked = names_no_code(config_path, config_name)(composed)

        @functools.wraps(task)
        @reports_errors
        def wrapper() -> None:
            words, flags = overrides_and_flags(sys.argv[1:])
            sweeps = bool({"-m", "--multirun"} & set(flags))
            overrides = [as_hydra(word, sweeps=sweeps) for word in words]
            state.status, state.sweep = 0, Sweep(swept_keys(overrides)) if sweeps else None
            # Flags last: --info takes the word behind it for its own.
            shown = [_help_of(task)] if {"--help", "-h"} & set(flags) else []
            sys.argv[1:] = [*overrides, *_HYDRA_KEEPS_STILL, *shown, *flags]
            _register_resolvers()
            read_yaml_files_so()
            # Hydra then raises its errors instead of printing them.
            os.environ["HYDRA_FULL_ERROR"] = "1"
            with tempfile.TemporaryDirectory() as folder:
                if sweeps:
                    # Hydra keeps notes of a sweep, and says of each run what is said here.
                    quiet = ("hydra.sweep.subdir=.", "hydra/hydra_logging=disabled")
                    sys.argv[1:1] = [f"hydra.sweep.dir={folder}", *quiet]
                try:
                    checked()
                except HydraException as error:
                    raise refusal(error, overrides) from error
            if state.sweep is not None and state.sweep.jobs:
                state.status = state.sweep.status
                if is_global_zero():
                    print(f"\n{state.sweep.table()}", flush=True)
            if state.status:
                sys.exit(state.status)

        return wrapper

    return decorate


@dataclass
class _State:
    """Of one command: its runs, where it makes several, and its exit status."""

    sweep: Sweep | None = None
    status: int = 0


def _help_of(task: Callable[..., Any]) -> str:
    """The override that has --help say what the script says of itself, and which groups there are.

    Hydra's own help is the whole YAML, without a word on how to begin.
    """
    page = _HELP.format(script=inspect.getdoc(inspect.getmodule(task)) or task.__name__)
    # In Hydra's quotes; what follows a dollar sign is Hydra's to fill in.
    quoted = page.replace("\\", "\\\\").replace("'", "\\'")
    return f"hydra.help.template='{quoted}'"


def overrides_and_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """A command line's overrides, and its flags with their values, each in their order."""
    overrides: list[str] = []
    flags: list[str] = []
    previous = ""
    for word in arguments:
        is_value = previous in _FLAGS_WITH_A_VALUE or (previous == "--info" and "=" not in word)
        (flags if word.startswith("-") or is_value else overrides).append(word)
        previous = word
    return overrides, flags


def _register_resolvers() -> None:
    """What NeMo's YAMLs may compute with: `${multiply:a,b}` and `${sum:a,b}`."""
    for name, function in {"multiply": operator.mul, "sum": operator.add}.items():
        OmegaConf.register_new_resolver(name, functools.partial(_computed, name, function), replace=True)


def _computed(name: str, function: Callable[[Any, Any], Any], a: Any, b: Any) -> Any:
    """Of two numbers: a text times a number is that many texts, and products of products have no end."""
    numbers = all(is_finite(each) and abs(each) <= 2**63 for each in (a, b))
    if not numbers:
        raise ConfigError(
            f"${{{name}:a,b}}",
            required="two numbers of at most 2^63",
            given=f"{type(a).__name__} and {type(b).__name__}",
            fix="write the value itself",
        )
    return function(a, b)
