"""The command line's overrides in the words Hydra takes, and what Hydra cannot compose as errors of ours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException

from nemo_pi.config.places import place_of
from nemo_pi.config.schema import RunConfig
from nemo_pi.errors import ConfigError, nearest

_SECTIONS = tuple(field.name for field in fields(RunConfig))
# `model=llama-7b` chooses a file of that group.
_GROUPS = ("model", "recipe", "rope", "pose", "parallel")
_NAMES = (*_SECTIONS, *(group for group in _GROUPS if group not in _SECTIONS))
# stages[1].max_steps=5, as messages name it; Hydra's grammar has stages.1.max_steps.
_INDEX = re.compile(r"(?<=\w)\[(\d+)\](?=[.\[]|$)")
_STAGE = re.compile(r"(?:model\.)?stages\.(\d+)")
_HOME = re.compile(r"(?<![^=,:\[{\s])~(?=/)")


def as_hydra(argument: str, *, sweeps: bool = False) -> str:
    """One word of the command line as Hydra takes it; flags and config groups are left as they are.

    Hydra wants `a=b` for keys that the YAML has, `+a=b` for those it has not and `++a=b` for either. Here all
    three mean the last: whether a key exists is for the schema to say, which knows the nearest name. A `~/`
    that the shell has left alone is the home folder.

    Args:
        argument: the word.
        sweeps: whether Hydra is to make a run of each of several values (--multirun).

    Raises:
        ConfigError: it cannot be read, gives a group no name, or several values to one run.
    """
    if argument.startswith("-") or not ("=" in argument or argument.startswith("~")):
        return argument
    key, equals, value = argument.partition("=")
    # The home folder is asked for only where it is named: in a container it may not be known.
    key = _INDEX.sub(r".\1", key)
    argument = f"{key}{equals}{_HOME.sub(lambda _: str(Path.home()), value)}"
    try:
        override = _parsed(argument)
    except HydraException as error:
        raise refusal(error) from error
    except RecursionError as error:
        raise ConfigError(
            key.lstrip("+"),
            required="lists and sections of some levels",
            given="ones nested without end",
            fix="write the value in a YAML file",
        ) from error
    _check_value(override, sweeps)
    if override.is_delete() or override.package is not None or "/" in override.key_or_group:
        return argument
    section, _, rest = override.key_or_group.partition(".")
    # Only a name without a dot can be a group; hydra's own keys follow hydra's own rules.
    if section != "hydra" and (rest or (section in _SECTIONS and section not in _GROUPS)):
        return "++" + argument.lstrip("+")
    return argument


def swept_keys(arguments: Sequence[str]) -> tuple[str, ...]:
    """Keys of a command line that are given several values.

    Args:
        arguments: overrides as Hydra takes them.
    """
    parsed = [_parsed(word) for word in arguments]
    return tuple(override.key_or_group for override in parsed if override.is_sweep_override())


def refusal(error: HydraException, arguments: Sequence[str] = ()) -> ConfigError:
    """What Hydra could not compose, as an error that names the key, what is required and the fix.

    Args:
        error: Hydra's.
        arguments: the overrides that it composed, among which the one at fault is looked for.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _missing_file(str(error.missing_cfg_file), list(error.options or ()))
    if isinstance(error, OverrideParseException):
        return ConfigError(
            (error.override or "command line").lstrip("+"),
            required="key=value, with values such as 4, [a,b] or {a: 1}",
            given=lines[0],
            fix="""quote a value with other characters twice: 'key="value"'""",
        )
    for override in map(_parsed, arguments):
        if _is_unknown(override):
            return _unknown_name(override, lines[0].rstrip("."))
        if (index := _STAGE.match(override.key_or_group)) and index[0] in lines[0]:
            return ConfigError(
                f"stages[{index[1]}]",
                required="a stage that the YAML has, counted from 0",
                given=override.input_line or "",
                fix="write the whole list: 'stages=[{max_steps: 150}, {max_steps: 50}]'",
            )
    fix = "; ".join(lines[1:]) or "correct the command line or the YAML"
    return ConfigError(
        "configuration", required="one that can be composed", given=lines[0], fix=fix.rstrip(".")
    )


def _parsed(argument: str) -> Override:
    return OverridesParser.create().parse_overrides([argument])[0]


def _check_value(override: Override, sweeps: bool) -> None:
    """Refuse several values for one run, and a group without a name."""
    key, given = override.key_or_group, override.input_line or ""
    value = given.partition("=")[2]
    if override.is_sweep_override() and not sweeps:
        raise ConfigError(
            key,
            required="one value for one run",
            given=given,
            fix=f"write a list as {key}=[{value}]; --multirun makes a run of each",
        )
    value_ = override.value()
    listed = isinstance(value_, list) and all(isinstance(item, str) for item in value_)
    named = isinstance(value_, str) or override.is_sweep_override()
    # What is deleted may be named or not; Hydra takes no list for that.
    named = named or (value_ is None if override.is_delete() else listed)
    if key in _GROUPS and not named:
        raise ConfigError(
            key,
            required=f"the name of a file in conf/{key}/",
            given=value,
            fix=f"{'~' * override.is_delete()}{key}=NAME, or leave it out",
        )


def _is_unknown(override: Override) -> bool:
    """Whether Hydra was to choose among, or to delete, what no YAML of ours has."""
    section, _, rest = override.key_or_group.partition(".")
    if section.partition("/")[0] == "hydra":
        return False
    return override.is_delete() if rest else section not in _NAMES


def _unknown_name(override: Override, given: str) -> ConfigError:
    key = override.key_or_group
    found = (place_of(key) or nearest(key, _NAMES)) if "." not in key else None
    return ConfigError(
        key,
        required=f"a key or a group of conf/: {', '.join(_NAMES)}",
        given=given,
        fix=f"did you mean {found}?" if found else "correct the key, or leave it out",
    )


def _missing_file(name: str, options: list[str]) -> ConfigError:
    group, _, word = name.rpartition("/")
    found = nearest(word, options)
    listed = ", ".join(options)
    if group == "rope" and (fix := _of_a_package(word, options)):
        return ConfigError(group, required=f"a YAML file of conf/rope: {listed}", given=repr(word), fix=fix)
    return ConfigError(
        group or "--config-name",
        required=f"one of {listed}" if options else "the name of a YAML file in conf/",
        given=repr(word),
        fix=f"did you mean {found}?" if found else "name one that exists",
    )


def _of_a_package(word: str, options: list[str]) -> str | None:
    """How to ask for another package's scaling method, which has no YAML in conf/rope; None: it is none."""
    # Imported here: it imports torch, and only a mistake needs it before anything is composed.
    from nemo_pi.rope.methods.registry import PLUG_INS

    found = nearest(word, [*options, *PLUG_INS.names()])
    return None if found is None or found in options else f"model.pos_scaling_type={found} selects it"
