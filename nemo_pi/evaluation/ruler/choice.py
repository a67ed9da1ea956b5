"""Which of RULER's subtasks are asked, and how a mean over them is named."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from nemo_pi.errors import ConfigError
from nemo_pi.evaluation.ruler.subtasks import OF_PROSE, OF_QUESTIONS, SUBTASKS, Material
from nemo_pi.rope.validation import did_you_mean

QA = "qa"
"""What may stand for every subtask that questions are given for."""


def check_names(names: Sequence[str]) -> None:
    """Refuse names of subtasks that there are not.

    Raises:
        ConfigError: with the nearest one.
    """
    for name in names:
        if name not in (*SUBTASKS, QA):
            raise ConfigError(
                "subtasks",
                required=f"of {', '.join(SUBTASKS)}",
                given=name,
                fix=did_you_mean(name, list(SUBTASKS)),
            )


def chosen(given: Sequence[str] | None, material: Material) -> list[str]:
    """Names of the subtasks that are asked, each once; None: all that there is material for.

    Raises:
        ConfigError: one without its material.
    """
    missing = {name: "documents" for name in OF_PROSE if not material.prose}
    missing |= {name: "tasks.ruler.questions" for name in OF_QUESTIONS if name not in material.questions}
    if given is None:
        return [name for name in SUBTASKS if name not in missing]
    asked = list(material.questions) or list(OF_QUESTIONS[:1])
    names = [each for name in given for each in (asked if name == QA else [name])]
    for name in names:
        if name in missing:
            file = "[FILE,FILE]" if name == OF_QUESTIONS[1] else "FILE"
            raise ConfigError(
                "subtasks",
                required=f"{missing[name]}, which {name} is made of",
                given=f"{name} without",
                fix=f"give {missing[name]}={file}, or leave {name} out",
            )
    return list(dict.fromkeys(names))


def files_of_questions(given: str | Sequence[str | None] | None) -> dict[str, Path]:
    """Name of a subtask → its file, of one file or a list of them: the first is qa_1's, the second qa_2's.

    Raises:
        ConfigError: a list that is neither of one file nor of two, or all null.
    """
    files = [given] if given is None or isinstance(given, str) else list(given)
    found = {name: Path(file).expanduser() for name, file in zip(OF_QUESTIONS, files, strict=False) if file}
    if given is not None and (not found or len(files) > len(OF_QUESTIONS)):
        raise ConfigError(
            "questions",
            required="one file or two: SQuAD's questions (qa_1), HotpotQA's (qa_2)",
            given=files,
            fix="give [squad.jsonl, hotpotqa.jsonl], [null, hotpotqa.jsonl] without the first, or null",
        )
    return found


def part_of_all(names: Collection[str]) -> str:
    """Say which and how many of RULER's subtasks these are: the bar of its authors is for all of them."""
    if set(names) == set(SUBTASKS):
        return f"all {len(SUBTASKS)} of RULER's subtasks"
    missing = [name for name in SUBTASKS if name not in names]
    # Results from elsewhere may have names of their own.
    few = len(missing) < len(names) and set(names) < set(SUBTASKS)
    which = f"without {', '.join(missing)}" if few else ", ".join(names)
    return f"{len(names)} of RULER's {len(SUBTASKS)} subtasks ({which})"
