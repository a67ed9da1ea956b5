"""What is measured of a model, part by part: each part is a stage with a file of its own."""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from demo.corpus import TEXT
from evidence.real.scorer import fastest_scorer
from evidence.real.sizes import TARGET, WINDOW, Size
from evidence.real.speed import Speed
from nemo_pi.data.tokenizer import build_tokenizer
from nemo_pi.evaluation.evaluate import evaluate
from nemo_pi.evaluation.needle_text import NeedleAtDepth
from nemo_pi.evaluation.perplexity import PerplexityResult
from nemo_pi.evaluation.results import ModelResults, read_results, write_results
from nemo_pi.evaluation.ruler.subtasks import SUBTASKS, Material
from nemo_pi.evaluation.tasks.base import Task, TaskContext
from nemo_pi.evaluation.tasks.needle import Needle
from nemo_pi.evaluation.tasks.perplexity import Perplexity
from nemo_pi.evaluation.tasks.ruler import Ruler
from nemo_pi.evaluation.tasks.short import Short
from nemo_pi.evaluation.windows import FULL_CONTEXT

SCORED = 2048
"""Tokens at the end of each text that are scored at every length."""
LENGTHS = (WINDOW, 2 * WINDOW, TARGET)
RULER_SUBTASKS = ("niah_single_1", "vt", "fwe")
"""Those of RULER's that need no text from elsewhere, one of each kind."""
LONG_TITLES = ("Persuasion", "Moby Dick", "State of the Union 1946")
"""Held-out works of more than 32,768 tokens."""
SHORT_TITLES = ("State of the Union 1912", "Job", "State of the Union 1904", "Revelation", "Daniel")
"""Others, for what is kept within the original window."""


@dataclass(frozen=True)
class Part:
    """One thing that is measured of a model."""

    key: str
    """Of its file, and what the plan calls it."""
    task: Task[Any, Any]
    """What measures."""
    num_documents: int
    """Texts that it reads."""
    documents: Callable[[Any], list[list[int]]]
    """Gives them by a tokenizer; a plan is made before there is one."""

    def seconds(self, speed: Speed) -> float:
        """How long it should take, 5 seconds for loading the model included."""
        return 5 + sum(speed.reading(read) + speed.writing(new, read + new) for read, new in self.texts())

    def texts(self) -> list[tuple[int, int]]:
        """Tokens that are read and that may be written, of each text."""
        task = self.task
        if isinstance(task, Needle):
            new = NeedleAtDepth.new_tokens
            return [(n - new, new) for n in task.lengths or ()] * (len(task.depths) * task.trials)
        if isinstance(task, Ruler):
            cells = [(n, _answer_tokens(name, n)) for n in task.lengths or () for name in task.subtasks or ()]
            return [(n - new, new) for n, new in cells] * task.samples
        lengths = (task.lengths if isinstance(task, Perplexity) else None) or (WINDOW,)
        return [(n, 0) for n in lengths] * self.num_documents


def _answer_tokens(subtask: str, length: int) -> int:
    return SUBTASKS[subtask](Material(), length).new_tokens


def parts_of(size: Size) -> list[Part]:
    """Everything that is measured, what says most first: an interrupted run has that already."""
    books, count = partial(long_texts, count=size.books), size.books
    short_texts = min(size.short_texts, len(SHORT_TITLES))
    needles = Needle(lengths=size.needle_lengths, depths=(0.25, 0.75), trials=size.needle_trials)
    ruler = Ruler(lengths=size.ruler_lengths, subtasks=RULER_SUBTASKS, samples=size.ruler_samples)
    first, second, last = (perplexity_part(count, length) for length in LENGTHS)
    return [
        first,
        second,
        Part("short", Short(), short_texts, partial(beginnings, count=short_texts)),
        Part("needle", needles, count, books),
        last,
        Part("ruler", ruler, count, books),
    ]


def perplexity_part(count: int, length: int) -> Part:
    """Perplexity of each text's last tokens with `length` tokens read: the same tokens at every length."""
    task = Perplexity(lengths=(length,), stride=SCORED, scored=FULL_CONTEXT, max_tokens=SCORED * count)
    return Part(f"perplexity-{length}", task, count, partial(ends, count=count, length=length))


def ends(tokenizer: Any, count: int, length: int) -> list[list[int]]:
    """So many tokens and one more, the last of each long text."""
    return [text[-length - 1 :] for text in long_texts(tokenizer, count)]


def beginnings(tokenizer: Any, count: int) -> list[list[int]]:
    """The first 8,193 tokens of so many other works."""
    return [text[: WINDOW + 1] for text in texts_of(tokenizer, SHORT_TITLES[:count])]


def long_texts(tokenizer: Any, count: int) -> list[list[int]]:
    """Held-out texts of 32,769 tokens, as many as asked for and as there are."""
    whole = texts_of(tokenizer, LONG_TITLES)
    cuts = [text[start : start + TARGET + 1] for text in whole for start in range(0, len(text), TARGET + 1)]
    return [text for text in cuts if len(text) == TARGET + 1][:count]


def texts_of(tokenizer: Any, titles: Sequence[str]) -> list[list[int]]:
    """Held-out works whose titles begin so, as token ids, in the order of `titles`."""
    works = _heldout()
    found = [next(text for title, text in works if title.startswith(name)) for name in titles]
    return [list(tokenizer.encode(text)) for text in found]


@cache
def _heldout() -> list[tuple[str, str]]:
    with lzma.open(TEXT / "heldout.jsonl.xz", "rt", encoding="ascii") as lines:
        return [(row["title"], row["text"]) for row in map(json.loads, lines)]


def measure(
    part: Part, name: str, model: Path, base: Path, file: Path, settings: dict[str, str] | None = None
) -> None:
    """Measure one part of one model and write it, whole or not at all; `settings` say how it was made.

    All models read by the tokenizer of `base`.
    """
    tokenizer = open_tokenizer(base)
    context = TaskContext(tokenizer, part.documents(tokenizer), WINDOW, TARGET, end_ids=_end_ids(model))
    origin = {"Configuration": settings or {}}
    with torch.inference_mode():
        results = evaluate(fastest_scorer(model, name), [part.task], context, name=name, origin=origin)
    write_results([results], file)


def combined(name: str, files: Sequence[Path]) -> ModelResults:
    """One line of the report from the parts that have been measured."""
    tasks: dict[str, Any] = {}
    origin: dict[str, dict[str, str]] = {}
    for file in files:
        if not file.exists():
            continue
        (model,) = read_results(file)
        for heading, facts in model.origin.items():
            origin[heading] = origin.get(heading, {}) | facts
        for key, result in model.tasks.items():
            before = tasks.get(key)
            # One length a part, on the same tokens.
            if isinstance(before, PerplexityResult) and isinstance(result, PerplexityResult):
                result = PerplexityResult(result.protocol, {**before.by_length, **result.by_length})
            tasks[key] = result
    return ModelResults(name, WINDOW, TARGET, tasks, origin)


def open_tokenizer(model: Path) -> Any:
    """The model's own."""
    return build_tokenizer("huggingface", str(model))


def _end_ids(model: Path) -> tuple[int, ...]:
    end = json.loads((model / "config.json").read_text(encoding="utf-8")).get("eos_token_id")
    return () if end is None else (end,) if isinstance(end, int) else tuple(end)
