"""The committed base.yaml says what the schema says, word for word, and reads back as the defaults."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import pytest
import yaml

from nemo_pi.config.merge import from_mapping
from tools.base_yaml import TARGET, keys_of, render, type_word


@dataclass
class Inner:
    """A section."""

    small: float = 1e-8
    """Tiny."""
    pair: tuple[float, float] = (0.5, 2e-5)
    """Two numbers."""


@dataclass
class Section:
    """What a test renders."""

    # --- first things ---
    plain: str | None = None
    """A word. null: none."""
    # Not a heading.
    quoted: str = "yes"
    """Text that YAML 1.1 would
    take for a truth."""
    inner: Inner = field(default_factory=Inner)
    """the inner one"""


def test_the_committed_file_is_the_schema_s() -> None:
    assert TARGET.read_text(encoding="utf-8") == render(), "run `make conf`"


def test_a_section_as_yaml() -> None:
    lines = render(Section).splitlines()
    assert lines[-12:] == [
        f"# {'-' * 64} first things",
        "# A word. null: none. (str, default: null)",
        "plain: null",
        "# Text that YAML 1.1 would take for a truth. (str, default: yes)",
        'quoted: "yes"',
        "",
        f"# {'-' * 64} the inner one",
        "inner:",
        "  # Tiny. (float, default: 1e-8)",
        "  small: 1.0e-8",
        "  # Two numbers. (2 floats, default: [0.5, 2e-5])",
        "  pair: [0.5, 2.0e-5]",
    ]
    assert from_mapping(Section, yaml.safe_load("\n".join(lines))) == Section()
    assert asdict(Section())["inner"]["pair"] == (0.5, 2e-5)


def test_headings_belong_to_the_key_below_them() -> None:
    assert [key.heading for key in keys_of(Section)] == ["first things", None, None]


@pytest.mark.parametrize(
    ("hint", "word"),
    [
        (int | None, "int"),
        (str | bool, "str or bool"),
        (list[str] | None, "list of str"),
        (str | list[Any] | dict[str, Any] | None, "str, list or section"),
        (Inner | None, "section"),
    ],
)
def test_types_in_words(hint: Any, word: str) -> None:
    assert type_word(hint) == word
