"""Files of questions or reports that a task is given: JSON lines, each an object."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from nemo_pi.bounded.json_text import parse_json
from nemo_pi.errors import DataError

T = TypeVar("T")


def read_records(path: Path, what: str, key: str, example: str, read: Callable[[Any], T]) -> list[T]:
    """What the lines of a file say, blank ones left out.

    Args:
        path: JSON lines in UTF-8.
        what: they are, for messages: "question".
        key: of the YAML, which names the file.
        example: of a line.
        read: takes a line's value; what it raises of KeyError, TypeError and ValueError is said of the line.

    Raises:
        DataError: no such file, no line, or a line that is not what it should be.
    """
    try:
        # Not splitlines: a text of JSON may hold what Unicode calls a line's end.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            str(path),
            required=f"a file of {what}s, JSON lines in UTF-8",
            given=str(error),
            fix=f"correct {key}",
        ) from error
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found.append(read(parse_json(line.encode())))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}:{number}",
                required=example,
                given=f"{line[:60]!r} ({error})",
                fix="correct the line",
            ) from error
    if not found:
        raise DataError(str(path), required=f"at least one {what}", given="none", fix="add lines")
    return found
