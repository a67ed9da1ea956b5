"""The table of docs/families.md."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from nemo_pi.families.registry import names
from nemo_pi.verification.findings import measured
from tools import families_table
from tools.families_table import BEGIN, COLUMNS, END, LAYOUTS, Line, lines_on, rows_of, written


def test_every_family_has_a_line_without_a_fault() -> None:
    lines = lines_on((Path(__file__).resolve().parents[3] / "docs" / "families.md").read_text("utf-8"))
    assert list(lines) == list(names()), (
        "run `make families`, or `python -m tools.families_table NAME --write`"
    )
    for family, cells in lines.items():
        assert "FAILED" not in cells
        assert int(cells[1]) >= 5, f"{family} has fewer than five random configurations"


def test_a_line_takes_the_largest_of_what_was_found() -> None:
    line, why = Line(), "rounding"
    near = measured("logits, edge", "transformers", 2e-6, 1e-4, "position 60", why)
    far = measured("logits, far", "transformers", 5e-6, 1e-4, "position 9", why)
    line.take("plain, none", "none", [near, far])
    line.take("plain, yarn", "yarn", [near, far, measured("packed documents", "alone", 1.0, 1e-4, "", why)])
    assert (line.configurations, line.logits, line.scaled) == (1, 2e-6, 5e-6)
    assert line.faults == ["plain, yarn: packed documents"]


def test_a_line_shows_what_failed() -> None:
    good = Line(configurations=5, logits=3e-6, scaled=2e-5, training={"TP 2": 1e-4})
    bad = Line(configurations=5, faults=["plain, none: logits, far"], training={"PP 2": None})
    first, second = good.cells("acme"), bad.cells("other")
    assert len(first) == len(second) == len(COLUMNS)
    assert {"`acme`", "3e-06", "2e-05", "1e-04", "ok"} <= set(first)
    assert second.count("FAILED") == 3


def test_lines_that_were_not_measured_again_stay() -> None:
    first, gone = (Line(configurations=5).cells(family) for family in ("first", "gone"))
    page = written(f"before\n{BEGIN}\n{END}\nafter\n", {"first": first, "gone": gone}, ["first", "gone"])
    assert lines_on(page) == {"first": first, "gone": gone}
    other = Line(configurations=7).cells("other")
    page = written(page, {"other": other}, ["other", "first"])
    assert lines_on(page) == {"other": other, "first": first}
    assert list(lines_on(page)) == ["other", "first"]
    assert page.startswith("before\n") and page.endswith("\nafter\n")
    with pytest.raises(ValueError, match="no place"):
        written("a page", {}, [])


def test_every_family_trains_at_three_layouts_or_more() -> None:
    found: dict[str, set[str]] = {}
    for family, layout, _ in rows_of(names()):
        found.setdefault(family, set()).add(layout)
    assert found["llama"] == set(LAYOUTS)
    assert all({"PP 2", "CP 2", "TP 2 + SP"} <= layouts for layouts in found.values())
    assert set(found) == set(names())
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
