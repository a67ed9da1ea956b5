"""What a search has measured, on disk, a line for each list of factors: nothing is measured twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nemo_pi.bounded.json_text import parse_json
from nemo_pi.errors import ConfigError, DataError
from nemo_pi.search.factors import Factors

_MOST_LINE_BYTES = 1 << 16


class Record:
    """Ratings of one search, kept in a file of JSON lines.

    The first line says what is measured; a file whose first line says something else is another search's.

    Args:
        path: of the file; its folder exists.
        subject: JSON-ready: everything that a rating depends on.
        writes: whether this process writes; the others of a launch only read.

    Raises:
        ConfigError: the file belongs to a search of something else.
        DataError: a line that is none of ours.
    """

    def __init__(self, path: Path, subject: dict[str, Any], *, writes: bool = True) -> None:
        self.path, self.writes = path, writes
        self.ratings: dict[Factors, float] = {}
        """Perplexity of each list."""
        lines = self._whole_lines()
        if lines:
            self._check(json.loads(json.dumps(subject)), self._parsed(lines[0], 1))
        for number, line in enumerate(lines[1:], 2):
            factors, perplexity = self._rating(line, number)
            self.ratings[factors] = perplexity
        if writes:
            # A line that a crash cut off goes: the next one would be written behind it.
            text = "".join(f"{line}\n" for line in lines or [json.dumps(subject)])
            path.write_text(text, encoding="utf-8")

    def add(self, factors: Factors, perplexity: float) -> None:
        """Keep a rating, on the disk at once."""
        self.ratings[factors] = perplexity
        if self.writes:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"hundredths": list(factors), "perplexity": perplexity}) + "\n")

    def _whole_lines(self) -> list[str]:
        if not self.path.exists():
            return []
        text = self.path.read_text(encoding="utf-8", errors="replace")
        return text.split("\n")[:-1]

    def _parsed(self, line: str, number: int) -> dict[str, Any]:
        try:
            values = parse_json(line.encode()[: _MOST_LINE_BYTES + 1])
        except ValueError as error:
            raise self._foreign(number, str(error)) from error
        if not isinstance(values, dict):
            raise self._foreign(number, type(values).__name__)
        return values

    def _rating(self, line: str, number: int) -> tuple[Factors, float]:
        values = self._parsed(line, number)
        factors, perplexity = values.get("hundredths"), values.get("perplexity")
        if not isinstance(factors, list) or not all(type(one) is int for one in factors):
            raise self._foreign(number, line[:80])
        if not isinstance(perplexity, int | float):
            raise self._foreign(number, line[:80])
        return tuple(factors), float(perplexity)

    def _check(self, subject: dict[str, Any], found: dict[str, Any]) -> None:
        for name in {**subject, **found}:
            if found.get(name) != subject.get(name):
                raise ConfigError(
                    f"{self.path}: {name}",
                    required=f"{subject.get(name)!r}, as asked for now",
                    given=f"{found.get(name)!r} in the search that this file keeps",
                    fix="give another --results for a new search, or the flags of that one to go on with it",
                )

    def _foreign(self, number: int, given: str) -> DataError:
        return DataError(
            f"{self.path}, line {number}",
            required="a line of a search's ratings",
            given=given,
            fix="give another --results, or remove the file",
        )
