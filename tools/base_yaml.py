"""conf/model/base.yaml, written from the schema: python -m tools.base_yaml (or `make conf`).

Every key of `model` is explained once, by the docstring under its field in nemo_pi/config. Here that text
gets its type and default and becomes the comment above the key.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
import types
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

from nemo_pi.config.schema import ModelConfig

TARGET = Path(__file__).resolve().parents[1] / "conf" / "model" / "base.yaml"

_OPENING = """\
# Every key of `model`, with its default. Presets beside this file start from it and change what differs.
# `null` means: take it from the checkpoint, derive it, or leave it off, as each key says.
# Written from nemo_pi/config/schema.py and sections.py: change a key there, then `make conf`.
"""
_WIDTH = 120
_HEADING = re.compile(r"\s*# --- (.+) ---$")
_WORDS = {int: "int", float: "float", str: "str", bool: "bool", dict: "section", list: "list"}


@dataclass(frozen=True)
class Key:
    """One field of a section as its source file explains it."""

    name: str
    """The key."""
    hint: Any
    """Its type."""
    default: Any
    """Its value in an empty section."""
    text: str
    """Its docstring, on one line."""
    heading: str | None
    """The title that its file puts above it; None where it goes on under the one before."""


def keys_of(section: type) -> Iterator[Key]:
    """The fields of a dataclass, in order, with the docstring below and any heading above each."""
    source = inspect.getsource(section)
    lines, hints, defaults = source.splitlines(), get_type_hints(section), section()
    definition = ast.parse(source).body[0]
    assert isinstance(definition, ast.ClassDef)
    end = 0
    for node, below in zip(definition.body, [*definition.body[1:], definition.body[0]], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            assert isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            above = [found[1] for line in lines[end : node.lineno - 1] if (found := _HEADING.match(line))]
            name = node.target.id
            text = " ".join(str(below.value.value).split())
            yield Key(name, hints[name], getattr(defaults, name), text, above[-1] if above else None)
        end = node.end_lineno or end


def render(section: type = ModelConfig) -> str:
    """The whole file."""
    return "\n".join([_OPENING.rstrip(), *_lines(section, "")]) + "\n"


def _lines(section: type, indent: str) -> Iterator[str]:
    for key in keys_of(section):
        if is_dataclass(key.hint):
            # A section of `model` has a heading of its own; one further in stands among the keys around it.
            yield from [] if indent else ["", _rule(key.text)]
            yield f"{indent}{key.name}:"
            yield from _lines(type(key.default), indent + "  ")
            continue
        if key.heading:
            yield from ["", _rule(key.heading)]
        default = _scalar(key.default)
        shown = default.strip('"').replace(".0e", "e")
        yield from _comment(key.text, f"({type_word(key.hint)}, default: {shown})", indent)
        yield f"{indent}{key.name}: {default}"


def _rule(title: str) -> str:
    return f"# {'-' * 64} {title}"


def _comment(text: str, ending: str, indent: str) -> list[str]:
    """Wrapped to a screen's width; type and default stay together on one line."""
    kept = ending.replace(" ", "\0")
    prefix = f"{indent}# "
    wrapped = textwrap.wrap(f"{text} {kept}", _WIDTH - len(prefix), break_on_hyphens=False)
    return [prefix + line.replace("\0", " ") for line in wrapped]


def type_word(hint: Any) -> str:
    """A type as the comments name it: `int`, `str or bool`, `list of str`, `section`."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        words = [type_word(option) for option in get_args(hint) if option is not type(None)]
        return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
    if origin is list and get_args(hint) != (Any,):
        return f"list of {type_word(get_args(hint)[0])}"
    if origin is tuple:
        return f"{len(get_args(hint))} {type_word(get_args(hint)[0])}s"
    return "section" if is_dataclass(hint) else _WORDS[origin or hint]


def _scalar(value: Any) -> str:
    """A value as YAML 1.1 reads it back: a float in exponent notation needs its point there."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_scalar, value))}]"
    if isinstance(value, float):
        mantissa, mark, exponent = repr(value).partition("e")
        return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{int(exponent)}" if mark else mantissa
    if isinstance(value, str):
        return value if yaml.safe_load(value) == value else json.dumps(value)
    return json.dumps(value)


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
