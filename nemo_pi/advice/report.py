"""The advice as people read it: in a terminal and as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nemo_pi.advice.proposals import Proposal
from nemo_pi.advice.ranking import Standing
from nemo_pi.advice.session import AS_IT_IS, Outcome
from nemo_pi.evaluation.report import describe_protocols
from nemo_pi.evaluation.tasks.base import Measured
from nemo_pi.evaluation.tasks.perplexity import Perplexity, format_perplexity
from nemo_pi.evaluation.text_tables import MISSING, Table, aligned, markdown, thin

COLUMNS = 100
MOST_LINES_DRAWN = 7
"""Candidates in the plot beside the checkpoint as it is: as many as there are colours."""


@dataclass(frozen=True)
class Section:
    """A heading, and what stands below it."""

    title: str
    """Heading."""
    body: tuple[str | Table, ...]
    """Paragraphs and lists (whose lines are kept), tables, and code (which begins with four spaces)."""


def ranking_tables(outcome: Outcome) -> list[Table]:
    """One table a round, the last first: what was measured on other windows does not compare. Candidates
    that went on, but that a cut round did not reach, stand apart from those that were dropped."""
    tables = []
    places = {standing.label: place for place, standing in enumerate(outcome.standings, start=1)}
    for number in range(outcome.last_round, -1, -1):
        base = next((standing for standing in outcome.base if standing.round == number), None)
        lines = [standing for standing in outcome.standings if standing.round == number]
        if base is None or not lines:
            continue
        if number == outcome.last_round:
            tables.append(_table("Ranking", base, lines, places))
            continue
        waiting = [each for each in lines if each.label in outcome.unreached]
        dropped = [each for each in lines if each not in waiting]
        after = f"round {number + 1} of {len(outcome.rounds)}"
        if waiting:
            tables.append(_table(f"Not reached after {after}, on fewer windows", base, waiting, places))
        if dropped:
            tables.append(_table(f"Dropped after {after}, on fewer windows", base, dropped, places))
    return tables


def _table(what: str, base: Standing, lines: Sequence[Standing], places: Mapping[str, int]) -> Table:
    lengths = thin(sorted(base.perplexity), 6)
    shorter = min(base.perplexity)
    has_keys = any(each.passkeys is not None for each in lines)
    has_longppl = any(each.longppl is not None for each in lines)
    header = [
        "untrained",
        *(f"{length:,}" for length in lengths),
        f"Δ{shorter:,}",
        *(["pass keys"] if has_keys else []),
        *(["LongPPL", "key tokens"] if has_longppl else []),
    ]
    rows = []
    for each in [base, *lines]:
        name = each.label if each is base else f"{places[each.label]}. {each.label}"
        ratio = each.perplexity[shorter] / base.perplexity[shorter] - 1
        cells = [name, *(format_perplexity(each.perplexity[length]) for length in lengths)]
        cells.append(MISSING if each is base else f"{ratio:+.1%}")
        if has_keys:
            cells.append(MISSING if each.passkeys is None else f"{each.passkeys:.0%}")
        if has_longppl:
            found = each.longppl
            cells += (
                [format_perplexity(found.longppl), f"{found.num_key_tokens:,}"] if found else [MISSING] * 2
            )
        rows.append(tuple(cells))
    return Table(
        f"{what}: perplexity by length in tokens, and its change at {shorter:,}", tuple(header), tuple(rows)
    )


def verdict(outcome: Outcome, proposals: Sequence[Proposal]) -> str:
    """The first line to read: what reads best untrained, and how well."""
    found = choices(outcome, proposals)
    base = next((each for each in outcome.base if each.round == outcome.last_round), None)
    if base is None or not found:
        return "Nothing was measured."
    _, proposal, best = found[0]
    short, target = min(base.perplexity), max(base.perplexity)
    if not best.perplexity[target] < base.perplexity[target]:
        return f"Nothing that was tried reads {target:,} tokens better than the model as it is."
    cost = _at_window(best) / _at_window(base) - 1
    text = (
        f"{proposal.label} reads best untrained: perplexity {format_perplexity(best.perplexity[target])} at "
        f"{target:,} tokens, where the model as it is has {format_perplexity(base.perplexity[target])}, and "
        f"{cost:+.1%} at {short:,}."
    )
    if best.passkeys is not None and base.passkeys is not None:
        text += f" It finds {best.passkeys:.0%} of the pass keys, the model as it is {base.passkeys:.0%}."
    return text


def choices(outcome: Outcome, proposals: Sequence[Proposal]) -> list[tuple[str, Proposal, Standing]]:
    """What to paste, and why: the best untrained, and the one that costs least within the original window
    where that is another one, and hardly worse over all lengths."""
    by_label = {proposal.label: proposal for proposal in proposals}
    final = [each for each in outcome.standings if each.round == outcome.last_round]
    extending = [each for each in final if by_label[each.label].extension.is_scaled] or final
    if not extending:
        return []
    best = extending[0]
    found = [("Best untrained, over all lengths", by_label[best.label], best)]
    near = [each for each in extending if each.loss < best.loss + 0.1]
    cheapest = min(near, key=lambda each: each.perplexity[min(each.perplexity)])
    if cheapest is not best and _at_window(cheapest) < 0.995 * _at_window(best):
        found.append(
            ("Least cost within the original window, among the near best", by_label[cheapest.label], cheapest)
        )
    return found


def _at_window(standing: Standing) -> float:
    return standing.perplexity[min(standing.perplexity)]


def training_lines(outcome: Outcome, proposals: Sequence[Proposal]) -> list[str]:
    """What training each method is known to need, in the order of the methods' best candidates."""
    by_label = {proposal.label: proposal for proposal in proposals}
    methods = dict.fromkeys(by_label[each.label].method for each in outcome.standings)
    known = {proposal.method: proposal.training or "nothing is known" for proposal in proposals}
    return [f"{method}: {known[method]}." for method in methods]


def protocols(outcome: Outcome) -> list[str]:
    """How the last round measured."""
    last = [each.results for each in outcome.base if each.round == outcome.last_round]
    return describe_protocols(last)


def draw(outcome: Outcome, path: Path) -> Path | None:
    """Perplexity by length of the best candidates of the last round beside the checkpoint as it is."""
    base = next((each for each in outcome.base if each.round == outcome.last_round), None)
    if base is None:
        return None
    best = [each for each in outcome.standings if each.round == outcome.last_round and each.label]
    lines = [base, *[each for each in best if each.results is not base.results][:MOST_LINES_DRAWN]]
    measured = [
        Measured(
            each.label if each is not base else AS_IT_IS,
            each.results.original_window,
            each.results.target_window,
            each.results.tasks[Perplexity.name],
        )
        for each in lines
    ]
    return Perplexity.plot(measured, path)  # type: ignore[arg-type]  # the results of this task are its own


def as_text(sections: Sequence[Section], columns: int = COLUMNS) -> str:
    """For a terminal."""
    parts = []
    for section in sections:
        parts.append(f"{section.title}\n{'═' * len(section.title)}")
        for item in section.body:
            if isinstance(item, Table):
                title = textwrap.fill(item.title, columns)
                parts.append("\n".join([title, *aligned(item, columns)]))
            elif item.startswith("    "):
                parts.append(item)
            else:
                parts.append("\n".join(_filled(line, columns) for line in item.splitlines()))
    return "\n\n".join(parts) + "\n"


def _filled(line: str, columns: int) -> str:
    return textwrap.fill(line, columns, subsequent_indent="  " if line.startswith("- ") else "")


def as_markdown(title: str, sections: Sequence[Section], picture: Path | None) -> str:
    """For a file."""
    parts = [f"# {title}"]
    for section in sections:
        parts.append(f"## {section.title}")
        for item in section.body:
            if isinstance(item, Table):
                parts += [f"{item.title}:", "\n".join(markdown(item))]
            elif item.startswith("    "):
                parts.append("```\n" + textwrap.dedent(item) + "\n```")
            else:
                parts.append(item)
        if picture is not None and section is sections[0]:
            parts.append(f"![perplexity by context length]({picture.name})")
    return "\n\n".join(parts) + "\n"
