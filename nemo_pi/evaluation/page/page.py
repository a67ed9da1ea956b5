"""The report as one HTML file that needs nothing else: no network, no script, no font."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from nemo_pi import __version__
from nemo_pi.evaluation.page.figures import figure, picture
from nemo_pi.evaluation.page.markup import Markup, element, join
from nemo_pi.evaluation.page.tables import facts, findings, glance, table
from nemo_pi.evaluation.sections import Section
from nemo_pi.evaluation.text_tables import Table
from nemo_pi.evaluation.verdicts import in_words

# Nothing is loaded and nothing runs, whatever a name or a number was made of.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
_ORIGIN = "Configuration, plan and environment"


def render_page(
    title: str,
    intro: str,
    sections: Sequence[Section],
    models: Sequence[str],
    origin: Sequence[Table],
) -> str:
    """Return the page.

    Args:
        title: of the report.
        intro: a paragraph below it.
        sections: in order; those with verdicts are also shown at a glance.
        models: names, as verdicts count them.
        origin: tables of where the numbers come from (`sections.origin_tables`).
    """
    named = list(zip(_identities([section.heading for section in sections]), sections, strict=True))
    answers = [(identity, section.verdicts[0]) for identity, section in named if section.verdicts]
    parts: list[Markup] = []
    contents: list[tuple[str, str]] = []
    if answers:
        parts.append(_block("glance", "At a glance", [glance(answers, models)]))
        contents.append(("glance", "At a glance"))
    for identity, section in named:
        parts.append(_block(identity, section.heading, _evidence(section, identity, models)))
        contents.append((identity, section.heading))
    if origin:
        parts.append(_block("origin", _ORIGIN, [facts(content) for content in origin]))
        contents.append(("origin", _ORIGIN))
    if not parts:
        parts.append(element("p", "Nothing was measured."))
    frame = element(
        "div",
        element("header", element("h1", title), element("p", intro, class_="intro")),
        *([_contents(contents)] if contents else []),
        element("main", *parts, id="main"),
        element(
            "footer",
            element(
                "p",
                f"Written by nemo_pi {__version__}. The numbers themselves: results.json beside this file.",
            ),
        ),
        class_="frame",
    )
    skip = element("a", "Skip to the answers", class_="skip", href="#main")
    body = element("body", skip, frame)
    html = element("html", _head(title), body, lang="en")
    return f"<!doctype html>\n{html}\n"


def _head(title: str) -> Markup:
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Markup(style)),
    )


def _contents(entries: Sequence[tuple[str, str]]) -> Markup:
    links = (element("li", element("a", heading, href=f"#{identity}")) for identity, heading in entries)
    head = element("h2", "On this page", id="contents")
    inner = element("div", head, element("ul", *links), class_="inner")
    return element("nav", inner, aria_labelledby="contents")


def _block(identity: str, heading: str, parts: Sequence[Markup]) -> Markup:
    head = element("h2", heading, id=f"{identity}-h")
    return element("section", head, *parts, id=identity, aria_labelledby=f"{identity}-h")


def _evidence(section: Section, identity: str, models: Sequence[str]) -> list[Markup]:
    """Answer first, then what shows it, then how it was measured."""
    parts = [element("p", section.text)] if section.text else []
    for source, verdict in section.by_source:
        parts += [
            element("p", source + in_words(verdict, models), class_="answer"),
            findings(verdict, models),
            element("p", element("b", "What counts. "), verdict.rule, class_="rule"),
        ]
    charts = section.all_charts
    parts += [figure(chart, f"{identity}-{i}") for i, chart in enumerate(charts)]
    if not charts:
        shown = (picture(path, section.heading) for path in section.pictures)
        parts += [part for part in shown if part is not None]
    parts += [table(content) for content in section.tables]
    parts += [
        element("p", element("b", "How it was measured. "), protocol, class_="protocol")
        for protocol in section.protocols
    ]
    if section.details:
        numbers = join([facts(content) for content in section.details])
        parts.append(element("details", element("summary", "Numbers of the protocol"), numbers))
    return parts


def _identities(headings: Sequence[str]) -> list[str]:
    """An identity for each heading: its letters, and its number where they are taken."""
    found: list[str] = []
    for i, heading in enumerate(headings):
        word = re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")[:48] or "section"
        taken = word in found or word in ("main", "glance", "origin", "contents")
        found.append(f"{word}-{i}" if taken else word)
    return found
