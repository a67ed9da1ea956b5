"""Tables and verdicts as HTML."""

from __future__ import annotations

from collections.abc import Sequence

from nemo_pi.evaluation.page.markup import Markup, element, join
from nemo_pi.evaluation.text_tables import Table
from nemo_pi.evaluation.verdicts import Finding, Verdict

_SIGNS = {"yes": "✓", "partly": "◐", "no": "✗", "reference": "•", "unknown": "?"}


def table(content: Table) -> Markup:
    """Return a table that scrolls by itself where it is wider than the page."""
    head = element("tr", *(_heading(name) for name in content.header))
    rows = (
        element("tr", element("th", first, scope="row"), *(element("td", cell) for cell in rest))
        for first, *rest in content.lines
    )
    drawn = element("table", element("thead", head), element("tbody", *rows), aria_label=content.title)
    return _captioned(content.title, drawn)


def facts(content: Table) -> Markup:
    """Return a table of texts by model; a line with a single cell holds for all of them."""
    columns = len(content.header) - 1
    shared = all(len(line) == 2 for line in content.lines)
    rows = []
    for name, *cells in content.lines:
        span = columns if len(cells) == 1 and columns > 1 and not shared else None
        rows.append(
            element(
                "tr",
                element("th", name, scope="row"),
                *(element("td", cell, colspan=span) for cell in cells),
            )
        )
    head = None if shared else element("thead", element("tr", *(_heading(name) for name in content.header)))
    told = f"{content.title} (all models alike)" if shared and columns > 1 else content.title
    body = element("tbody", *rows)
    return _captioned(told, element("table", head, body, class_="facts", aria_label=told))


def glance(verdicts: Sequence[tuple[str, Verdict]], models: Sequence[str]) -> Markup:
    """Return all answers at a glance: a line for each question, a column for each model.

    Args:
        verdicts: (identity of its section, verdict).
        models: their names; with several, the first is marked as what the others are compared with.
    """
    small = element("small", "the baseline") if len(models) > 1 else None
    heads = [element("th", name, small if i == 0 else None, scope="col") for i, name in enumerate(models)]
    rows = [
        element(
            "tr",
            element("th", element("a", verdict.question, href=f"#{identity}"), scope="row"),
            *(_cell(verdict, finding) for finding in verdict.findings),
        )
        for identity, verdict in verdicts
    ]
    head = element("thead", element("tr", element("th", "question", scope="col"), *heads))
    body = element("tbody", *rows)
    title = "The answers; each question leads to its evidence"
    return _captioned(title, element("table", head, body, class_="glance", aria_label=title))


def findings(verdict: Verdict, models: Sequence[str]) -> Markup:
    """Return what the numbers say of each model."""
    pairs = zip(verdict.findings, models, strict=True)
    items = [
        element(
            "li",
            chip(verdict, finding),
            element("span", name, class_="who"),
            element("span", finding.text, class_="why"),
        )
        for finding, name in pairs
        if finding is not None
    ]
    return element("ul", *items, class_="findings")


def chip(verdict: Verdict, finding: Finding) -> Markup:
    """Return an answer as a word, a sign and a colour."""
    sign = element("span", f"{_SIGNS[finding.answer]} ", aria_hidden="true")
    return element("span", sign, verdict.word(finding.answer), class_=f"chip {finding.answer}")


def _captioned(title: str, drawn: Markup) -> Markup:
    """A table in a region that scrolls sideways, also by the keyboard; its title stays where it is."""
    region = element("div", drawn, class_="scroll", tabindex="0", role="region", aria_label=title)
    return join([element("p", title, class_="caption"), region])


def _heading(name: str) -> Markup:
    return element("th", name, scope="col") if name else element("td")


def _cell(verdict: Verdict, finding: Finding | None) -> Markup:
    if finding is None:
        return element("td", element("span", "not measured", class_="figure"))
    figure = element("span", finding.figure, class_="figure") if finding.figure else None
    return element("td", chip(verdict, finding), figure)
