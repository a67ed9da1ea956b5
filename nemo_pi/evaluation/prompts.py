"""What tasks share that ask for a generated answer: haystacks, prompts of a length, scores of answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nemo_pi.errors import DataError
from nemo_pi.evaluation.generation import GenerationRequest
from nemo_pi.evaluation.passkey_text import start_ids
from nemo_pi.evaluation.ruler.sample import Maker, Sample, fitted
from nemo_pi.evaluation.scorer import Scorer
from nemo_pi.evaluation.tasks.base import TaskContext

LEAST_PROSE = 1000
"""Words of a haystack; fewer would repeat before the eye."""


def prose_of(context: TaskContext) -> list[str]:
    """Words of the held-out documents."""
    return [word for document in context.documents for word in context.tokenizer.decode(document).split()]


def haystack(context: TaskContext, task: str) -> list[str]:
    """Words of the held-out documents, enough of them.

    Raises:
        DataError: too few.
    """
    words = prose_of(context)
    if len(words) < LEAST_PROSE:
        raise DataError(
            "documents",
            required=f"at least {LEAST_PROSE} words of prose, in which {task} hides what it asks for",
            given=f"{len(words)}",
            fix=f"give documents=FILE.jsonl, or tasks.{task}=false",
        )
    return words


def room(context: TaskContext, maker: Maker, length: int) -> int:
    """Tokens that a prompt's text may have within `length`."""
    return length - maker.new_tokens - (len(start_ids(context.tokenizer)) if context.add_bos else 0)


def samples(context: TaskContext, maker: Maker, length: int, key: str, count: int) -> Iterator[Sample]:
    """Prompts of a length, each of its own random numbers; the same for the same key.

    Raises:
        DataError: a length too short for this maker.
    """
    size = None
    for number in range(count):
        sample, size = fitted(
            maker,
            context.tokenizer.encode,
            room(context, maker, length),
            f"{key}/{number}",
            number,
            size,
        )
        yield sample


def answered(scorer: Scorer, context: TaskContext, maker: Maker, batch: Sequence[Sample]) -> float:
    """The sum of a batch's scores, its prompts (of `samples`) gone on from greedily."""
    tokenizer = context.tokenizer
    start = start_ids(tokenizer) if context.add_bos else ()
    request = GenerationRequest(
        maker.new_tokens,
        stop_ids=context.end_ids,
        decode=tokenizer.decode,
        batch_tokens=context.batch_tokens,
    )
    prompts = [[*start, *sample.token_ids] for sample in batch]
    texts = scorer.generate(prompts, request)
    return sum(
        maker.score(text.text or "", sample.answers) for text, sample in zip(texts, batch, strict=True)
    )
