"""The command line's overrides in the words Hydra takes, and Hydra's errors in ours."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from hydra.errors import HydraException, MissingConfigException, OverrideParseException

from nemo_pi.config.merge import nearest
from nemo_pi.config.schema import RunConfig
from nemo_pi.errors import ConfigError

_SECTIONS = tuple(field.name for field in fields(RunConfig))
# `model=llama-7b` chooses a file of that group.
_GROUPS = ("model", "rope", "pose", "parallel", "trainer")  # NeMo registers the last
_ASSIGNMENT = re.compile(r"(?P<sign>\+{0,2})(?P<key>\w+(?P<rest>\.[\w.]+)?)=(?P<value>.*)", re.DOTALL)
_HOME = re.compile(r"(?<![^=,:\[{\s])~(?=/)")
_NAMED = re.compile(r"Could not (?:override|append to config|delete from config)\b[^']*'([^']+)'")


def as_hydra(argument: str) -> str:
    """One word of the command line as Hydra takes it; flags and config groups are left as they are.

    Hydra wants `a=b` for keys that the YAML has, `+a=b` for those it has not and `++a=b` for either. Here all
    three mean the last: whether a key exists is for the schema to say, which knows the nearest name. A `~/`
    that the shell has left alone is the home folder.
    """
    found = _ASSIGNMENT.fullmatch(argument)
    if found is None:
        return argument
    first = found["key"].partition(".")[0]
    assigned = f"{found['key']}={_HOME.sub(str(Path.home()), found['value'])}"
    known = found["rest"] is not None or (first in _SECTIONS and first not in _GROUPS)
    return f"++{assigned}" if known and first != "hydra" else f"{found['sign']}{assigned}"


def refused_by_hydra(error: Exception) -> bool:
    """Whether an error says that Hydra could not compose a configuration."""
    return isinstance(error, HydraException) or str(error).startswith("Config group override must be")


def refusal(error: Exception) -> ConfigError:
    """What Hydra could not compose, as an error that names the key, what is required and the mend."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _missing_file(str(error.missing_cfg_file), list(error.options or ()))
    if isinstance(error, OverrideParseException):
        return ConfigError(
            (error.override or "command line").lstrip("+"),
            required="key=value, with values such as 4, [a,b] or {a: 1}",
            given=lines[0],
            mend="""quote a value with other characters twice: 'key="value"'""",
        )
    named = _NAMED.search(str(error))
    if named is None:
        mend = "; ".join(lines[1:]) or "correct the command line or the YAML"
        return ConfigError(
            "configuration", required="one that can be composed", given=lines[0], mend=mend.rstrip(".")
        )
    key = named[1]
    names = (*_SECTIONS, *(group for group in _GROUPS if group not in _SECTIONS))
    found = nearest(key, names) if "." not in key else None
    return ConfigError(
        key,
        required=f"a key or a group of conf/: {', '.join(names)}",
        given=lines[0].rstrip("."),
        mend=f"did you mean {found}?" if found and found != key else "correct the key, or leave it out",
    )


def _missing_file(name: str, options: list[str]) -> ConfigError:
    group, _, word = name.rpartition("/")
    found = nearest(word, options)
    listed = ", ".join(options)
    return ConfigError(
        group or "--config-name",
        required=f"one of {listed}" if options else "the name of a YAML file in conf/",
        given=repr(word),
        mend=f"did you mean {found}?" if found else "name one that exists",
    )
