"""Elements of HTML and SVG as text. Whatever is not markup already is escaped: names cannot become tags."""

from __future__ import annotations

from html import escape

_EMPTY = frozenset({"meta", "img", "br", "hr"})


class Markup(str):
    """Text that is markup already and stands as it is."""

    __slots__ = ()


Child = str | None
"""Text, markup, or nothing."""


def element(tag: str, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """Return an element.

    Args:
        tag: its name.
        children: text, which is escaped, or Markup, which is not; None is left out.
        attributes: names with `_` for `-`, a trailing `_` where Python has the word (class_, for_). None and
            False are left out, True stands without a value; numbers are written short.
    """
    written = "".join(_attribute(name, value) for name, value in attributes.items())
    if tag in _EMPTY:
        return Markup(f"<{tag}{written}>")
    return Markup(f"<{tag}{written}>{join(children)}</{tag}>")


def join(children: tuple[Child, ...] | list[Child] | list[Markup], between: str = "") -> Markup:
    """Return children one after the other, escaped where they are text."""
    return Markup(
        between.join(
            child if isinstance(child, Markup) else escape(child) for child in children if child is not None
        )
    )


def _attribute(name: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = name.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    text = value if isinstance(value, str) else f"{value:.6g}"
    return f' {name}="{escape(text)}"'
