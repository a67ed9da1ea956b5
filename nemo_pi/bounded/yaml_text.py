"""YAML whose values fit into memory: aliases are counted as often as they stand for something.

Ten lines can name a list of ten lists of ten lists: YAML keeps one of each, and whoever copies the values
(OmegaConf does) makes all 10^10.
"""

from __future__ import annotations

from typing import Any

import yaml

MOST_BYTES = 1 << 20
"""A run's YAML has some 20 KB; with thousands of data paths some hundred."""
MOST_NODES = 100_000
"""Values and keys, aliases written out."""
MOST_LEVELS = 20
"""Of nested sections and lists; a run's YAML has five."""

# libyaml's parser is ten times as fast and makes the same events.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def check_yaml(data: bytes, *, anchors: bool = True, tags: bool = True) -> str:
    """The text of a YAML file that is worth building values from.

    Args:
        data: the file.
        anchors: whether it may have any.
        tags: whether it may have any (those that name code are never built, see yaml.SafeLoader).

    Raises:
        ValueError: larger than MOST_BYTES, not UTF-8, no YAML, more nodes or levels than allowed, or no
            mapping; with the line where there is one.
    """
    if len(data) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES:,} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error.reason} at byte {error.start}") from error
    try:
        _check_events(text, anchors, tags)
    except yaml.YAMLError as error:
        raise ValueError(described(error, text)) from error
    except RecursionError as error:
        raise ValueError("sections nested without end") from error
    return text


def _check_events(text: str, anchors: bool, tags: bool) -> None:
    """Reads the YAML once without building anything from it."""
    sizes: dict[str, int] = {}
    # (anchor, nodes so far) of each section that is open; the outermost stands for the whole.
    open_: list[tuple[str | None, int]] = [(None, 0)]
    first = True
    for event in yaml.parse(text, Loader=_LOADER):
        anchor, line = getattr(event, "anchor", None), event.start_mark.line + 1
        if not anchors and (anchor is not None or isinstance(event, yaml.AliasEvent)):
            raise ValueError(f"an anchor or alias at line {line}")
        if not tags and getattr(event, "tag", None) is not None:
            raise ValueError(f"the tag {event.tag} at line {line}")
        if isinstance(event, yaml.NodeEvent) and first:
            first = False
            if not isinstance(event, yaml.MappingStartEvent):
                raise ValueError("no `key: value` lines at the top")
        if isinstance(event, yaml.CollectionStartEvent):
            open_.append((anchor, 1))
            if len(open_) - 1 > MOST_LEVELS:
                raise ValueError(f"more than {MOST_LEVELS} nested levels at line {line}")
            continue
        size = 0
        if isinstance(event, yaml.AliasEvent):
            if any(name == anchor for name, _ in open_):
                raise ValueError(f"the alias *{anchor} at line {line} within what it stands for")
            size = sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_.pop()
        if anchor is not None and not isinstance(event, yaml.AliasEvent):
            sizes[anchor] = size
        around, nodes = open_.pop()
        if nodes + size > MOST_NODES:
            raise ValueError(f"more than {MOST_NODES:,} values, aliases written out, at line {line}")
        open_.append((around, nodes + size))


def described(error: yaml.YAMLError, text: str = "") -> str:
    """One line of what yaml says in five, with the commonest cause where it is that."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    if mark is None:
        return str(problem)
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    indented_by_tab = "\t" in line[: len(line) - len(line.lstrip())]
    tab = ": a tab, and YAML is indented by spaces alone" if indented_by_tab else f": {problem}"
    return f"line {mark.line + 1}, column {mark.column + 1}{tab}"
