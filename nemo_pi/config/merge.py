"""YAML onto dataclasses: unknown keys refused with the nearest valid ones, types enforced at every level.

Text is not a number, with one exception: YAML 1.1 reads `1e-4` (no dot) as a string, so exponent notation
is converted. An integer takes a whole number in any of these forms (`4096`, `4096.0`, `4e3`). Booleans are
never numbers here, nor numbers booleans, and `null` is only for keys that say what it means.
"""

from __future__ import annotations

import re
import reprlib
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from nemo_pi.errors import ConfigError, nearest
from nemo_pi.rope.validation import is_finite

T = TypeVar("T")

# What YAML 1.1 takes for text though a person means a number.
_EXPONENT_NOTATION = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)[eE][+-]?\d+")
_WORDS = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text"}
# A value in a message: enough to recognise it by, however much a file holds.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 12
MISSING = "???"
_FEW = 12


def from_mapping(kind: type[T], values: Any, path: str = "") -> T:
    """An instance of the dataclass `kind` with `values` over its defaults.

    Args:
        kind: the dataclass to fill.
        values: a mapping of plain Python values, nested like the dataclass.
        path: dotted key of this section, for messages; empty at the top level.

    Raises:
        ConfigError: an unknown key, a wrong type, a missing value (`???`) or a `_target_`.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(
            path or "configuration",
            required=f"a section with keys ({', '.join(_names(kind)[:4])}, ...)",
            given=_show(values),
            fix="write `key: value` lines under it",
        )
    refuse_unknown(unknown_keys(kind, values, path))
    hints = get_type_hints(kind)
    return kind(**{key: convert(value, hints[key], _join(path, key)) for key, value in values.items()})


@dataclass(frozen=True)
class UnknownKey:
    """A key that its section does not have."""

    name: str
    """Dotted, from the top."""
    section: str
    """Dotted name of the section; empty at the top level."""
    valid: tuple[str, ...]
    """The keys that the section has."""
    below: tuple[str, ...] = ()
    """Where a key of just this name is, dotted from the top: in its own sections, or further off."""

    @property
    def fix(self) -> str:
        """The nearest key that there is, or what to do where none is alike."""
        if self.below:
            return f"did you mean {' or '.join(self.below)}?"
        key = self.name.rpartition(".")[2]
        found = nearest(key, self.valid)
        return f"did you mean {_join(self.section, found)}?" if found else f"remove {key!r}"

    @property
    def required(self) -> str:
        """Which keys there are, where a list helps: fifty names would bury the one that was meant."""
        listed = len(self.valid) <= _FEW or self.fix.startswith("remove")
        return f"a key of {self.section or 'the top level'}{': ' + ', '.join(self.valid) if listed else ''}"


Known = type | Mapping[str, Any] | Iterable[str]
"""What a section may hold: a dataclass, names, or a table of names in which a table stands for a section."""


def unknown_keys(known: Known, values: Any, path: str = "") -> list[UnknownKey]:
    """Every key of a section, and of those in it, that is not known; none where `values` is no section."""
    if not isinstance(values, Mapping):
        return []
    inner = _inner_sections(known)
    names = tuple(inner)
    found = [
        UnknownKey(_join(path, str(key) or "''"), path, names, tuple(places(known, str(key), path)))
        for key in values
        if key not in inner
    ]
    for key, section in inner.items():
        if section is not None:
            found += unknown_keys(section, values.get(key), _join(path, key))
    return found


def places(known: Known, key: str, path: str = "") -> Iterator[str]:
    """Where a key is found in the sections of a section, whatever its depth; dotted from the top."""
    for name, section in _inner_sections(known).items():
        if section is not None:
            if key in _inner_sections(section):
                yield _join(_join(path, name), key)
            yield from places(section, key, _join(path, name))


def _inner_sections(known: Known) -> dict[str, Known | None]:
    """Names that a section has, with what is known of those that are sections themselves."""
    if is_dataclass(known):
        options = {name: _options(hint) for name, hint in get_type_hints(known).items()}
        return {
            name: next((cast(type, option) for option in options[name] if is_dataclass(option)), None)
            for name in _names(cast(type, known))
        }
    if isinstance(known, Mapping):
        return {name: value if isinstance(value, Mapping) else None for name, value in known.items()}
    return dict.fromkeys(cast(Iterable[str], known))


def refuse_unknown(found: list[UnknownKey]) -> None:
    """One error for all of them, so that a file with several is fixed at once."""
    for one in found:
        if one.name.rpartition(".")[2] == "_target_":
            refuse_targets({"_target_": ""}, one.section)
    if len(found) == 1:
        key = found[0].name.rpartition(".")[2]
        raise ConfigError(
            found[0].name, required=found[0].required, given=f"the unknown key {key!r}", fix=found[0].fix
        )
    if found:
        raise ConfigError(
            ", ".join(one.name for one in found),
            required="keys that there are",
            given=f"{len(found)} unknown ones",
            fix="; ".join(f"{one.name}: {one.fix}" for one in found),
        )


def check_keys(values: Mapping[Any, Any], valid: Iterable[str], path: str) -> None:
    """Refuse the keys that are not in `valid`, each with the nearest one that is."""
    refuse_unknown(unknown_keys(tuple(valid), values, path))


def refuse_targets(values: Any, path: str = "") -> None:
    """Refuse `_target_` (code named by configuration) anywhere in nested mappings and lists."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            if key == "_target_":
                raise ConfigError(
                    _join(path, key),
                    required="no _target_: a configuration names values, never code",
                    given=_show(value),
                    fix="remove the key",
                )
            refuse_targets(value, _join(path, str(key)))
    elif isinstance(values, list | tuple):
        for index, value in enumerate(values):
            refuse_targets(value, f"{path}[{index}]")


def convert(value: Any, hint: Any, path: str) -> Any:
    """`value` as the type `hint` (a scalar, list, tuple, dict, union or dataclass), or a ConfigError."""
    if isinstance(value, str) and value == MISSING:
        raise ConfigError(
            path, required="a value: the YAML leaves it open (???)", given="none", fix=f"give {path}=..."
        )
    if hint is Any:
        return value
    if is_dataclass(hint):
        return from_mapping(cast(type, hint), value, path)
    origin = get_origin(hint)
    if len(_options(hint)) > 1:
        return _convert_union(value, _options(hint), path)
    if origin in (list, tuple):
        return _convert_sequence(value, origin, get_args(hint), path)
    if origin is dict:
        if isinstance(value, Mapping):
            return dict(value)
        raise _wrong(value, "a section of `key: value` lines", path)
    return _convert_scalar(value, hint, path)


def _options(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a union, or the type itself."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _convert_union(value: Any, options: tuple[Any, ...], path: str) -> Any:
    """The first option that takes the value."""
    if value is None and type(None) in options:
        return None
    rest = [option for option in options if option is not type(None)]
    if len(rest) == 1:
        return convert(value, rest[0], path)
    for option in rest:
        try:
            return convert(value, option, path)
        except ConfigError:
            continue
    words = (_WORDS.get(get_origin(option) or option, "a list or a section") for option in rest)
    raise _wrong(value, " or ".join(dict.fromkeys(words)), path)


def _convert_sequence(value: Any, origin: type, arguments: tuple[Any, ...], path: str) -> Any:
    """A list or `tuple[x, ...]` of any length, or a tuple of exactly as many items as its type names."""
    if not isinstance(value, list | tuple):
        raise _wrong(value, "a list: [a, b, ...]", path)
    if origin is list or Ellipsis in arguments:
        return origin(convert(item, arguments[0], f"{path}[{index}]") for index, item in enumerate(value))
    if len(value) != len(arguments):
        raise _wrong(value, f"a list of {len(arguments)} values", path)
    pairs = zip(value, arguments, strict=True)
    return tuple(convert(item, hint, f"{path}[{index}]") for index, (item, hint) in enumerate(pairs))


def _convert_scalar(value: Any, hint: Any, path: str) -> Any:
    if hint is bool and isinstance(value, bool):
        return value
    if hint is str and isinstance(value, str) and value:
        return value
    if hint in (int, float):
        number = _number(value)
        if number is not None and (hint is float or float(number).is_integer()):
            return hint(number)
    raise _wrong(value, _WORDS.get(hint, str(hint)), path)


def _number(value: Any) -> int | float | None:
    """A finite number from a number or from exponent notation as text; None for anything else."""
    if isinstance(value, str) and _EXPONENT_NOTATION.fullmatch(value):
        value = float(value)
    return value if is_finite(value) else None


def _wrong(value: Any, required: str, path: str) -> ConfigError:
    fix = f"write {required}"
    if value == "":
        fix = "write what is meant, or leave the key out"
    elif value is None:
        fix = "leave the key out for its default"
    elif isinstance(value, str) and "number" in required:
        fix = "write it without quotes and units"
    elif required == _WORDS[str] and isinstance(value, int | float):
        fix = f"""write it in quotes: '{value}' (on the command line "'{value}'")"""
    return ConfigError(path, required=required, given=_show(value), fix=fix)


def _show(value: Any) -> str:
    return "null" if value is None else f"{_SHORT.repr(value)} ({type(value).__name__})"


def _names(kind: type) -> list[str]:
    return [field.name for field in fields(kind)]


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
