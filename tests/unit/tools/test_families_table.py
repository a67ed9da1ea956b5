"""The table of docs/families.md."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from tools import families_table
from tools.families_table import BEGIN, END, LAYOUTS, Line, rows_of, rows_on, table, written


def test_a_line_shows_what_failed() -> None:
    good = Line(configurations=5, logits=3e-6, scaled=2e-5, training={"TP 2": 1e-4})
    bad = Line(configurations=5, faults=["plain, none: logits, far"], training={"PP 2": None})
    text = table({"acme": good, "other": bad})
    assert rows_on(f"{BEGIN}\n{text}\n{END}") == ["acme", "other"]
    first, second = text.splitlines()[2:]
    assert "3e-06" in first and "1e-04" in first and "FAILED" not in first
    assert second.count("FAILED") == 3


def test_only_what_stands_between_the_marks_is_replaced() -> None:
    page = f"before\n{BEGIN}\n| `old` |\n{END}\nafter\n"
    assert rows_on(page) == ["old"]
    assert written(page, "| `new` |") == f"before\n{BEGIN}\n| `new` |\n{END}\nafter\n"
    with pytest.raises(ValueError, match="no place"):
        written("a page", "")


def test_every_family_trains_at_three_layouts_or_more() -> None:
    from nemo_pi.families.registry import names

    found: dict[str, set[str]] = {}
    for family, layout, _ in rows_of(names()):
        found.setdefault(family, set()).add(layout)
    assert found["llama"] == set(LAYOUTS)
    assert found["qwen2"] == set(LAYOUTS)


def test_what_a_test_recorded_counts_only_where_it_passed() -> None:
    report = ElementTree.fromstring(
        """<testsuites><testsuite>
        <testcase name="test_x[good]"><properties><property name="update" value="1e-5"/></properties>
        </testcase>
        <testcase name="test_x[bad]"><properties><property name="update" value="1e-5"/></properties>
          <failure/></testcase>
        <testcase name="test_x[silent]"/>
        </testsuite></testsuites>"""
    )
    assert families_table._results(report) == {"good": 1e-5}
