"""Generation as evaluation asks for it, whatever computes the logits: batches, draws, and where a text ends.

What comes out for a prompt is what comes out for it alone: prompts of one length go together, so that no row
holds padding. Padding would be masked, but it would not be harmless: under dynamic NTK and LongRoPE the
frequencies follow the longest row of a batch.

Shape legend: B rows, S tokens of a row, V vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nemo_pi.errors import ConfigError, DataError
from nemo_pi.evaluation.sampling import Sampler, Sampling
from nemo_pi.units import plural

NextLogits = Callable[[Tensor], Tensor]
"""Logits [B, V] of the token after texts [B, S]; each call's texts are the last call's with tokens added."""


@dataclass(frozen=True)
class Generated:
    """What followed one prompt."""

    token_ids: tuple[int, ...]
    """New tokens, the one it ended with included."""
    text: str | None
    """Their text, without a stop token and from a stop string on cut off; None without `decode`."""


@dataclass(frozen=True)
class GenerationRequest:
    """How prompts are to be gone on from."""

    max_new_tokens: int
    """Tokens added to each prompt at most."""
    sampling: Sampling = field(default_factory=Sampling)
    """Greedy by default. Prompt number i draws with the seed `sampling.seed + i`, whatever batch it is in."""
    stop_ids: tuple[int, ...] = ()
    """A text ends with the first of these tokens."""
    stop_strings: tuple[str, ...] = ()
    """A text ends as soon as it holds one of these, also where several tokens make it up together."""
    decode: Callable[[Sequence[int]], str] | None = None
    """Text of token ids; needed for stop strings, and for `Generated.text`."""
    batch_tokens: int = 8192
    """Tokens per batch of all replicas together, new ones included; at least one prompt each."""

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(name, required="≥ 1 token", given=getattr(self, name), fix="give e.g. 64")
        if self.stop_strings and self.decode is None:
            raise ConfigError(
                "stop_strings",
                required="a way to decode tokens: text is what they are looked for in",
                given="decode=None",
                fix="give the tokenizer's decode, or stop_ids",
            )
        if "" in self.stop_strings:
            raise ConfigError("stop_strings", required="no empty text", given="''", fix="leave it out")

    def ends(self, token_ids: Sequence[int]) -> bool:
        """Say whether a text with these new tokens has ended, if it had not before the last of them."""
        if token_ids[-1] in self.stop_ids:
            return True
        if not self.stop_strings or self.decode is None:
            return False
        text = self.decode(token_ids)
        return any(stop in text for stop in self.stop_strings)

    def finish(self, token_ids: Sequence[int]) -> Generated:
        """Make the result from the new tokens, the one that ended the text included."""
        if self.decode is None:
            return Generated(tuple(token_ids), None)
        text = self.decode(token_ids[:-1] if token_ids[-1] in self.stop_ids else token_ids)
        places = [place for stop in self.stop_strings if (place := text.find(stop)) >= 0]
        return Generated(tuple(token_ids), text[: min(places)] if places else text)


def check_room(window: int, length: int, max_new_tokens: int, *, whose: str, more: str) -> None:
    """Refuse a text that could outgrow a window.

    Args:
        window: tokens that it may have at most.
        length: tokens of the prompt.
        max_new_tokens: tokens that may be added to it.
        whose: the window's owner, for messages.
        more: how to get a longer window, for messages.

    Raises:
        DataError: an empty prompt, or one that fills the window.
        ConfigError: more new tokens than there is room for.
    """
    if not 1 <= length < window:
        raise DataError(
            "prompt",
            required=f"from 1 token to fewer than {whose} window, {window} tokens",
            given=plural(length, "token"),
            fix=f"shorten the prompt, or {more}" if length else "give a prompt",
        )
    if max_new_tokens < 1 or length + max_new_tokens > window:
        raise ConfigError(
            "max_new_tokens",
            required=f"from 1 to {window - length}: the window of {window} tokens less a prompt of {length}",
            given=max_new_tokens,
            fix=f"ask for fewer tokens, shorten the prompt, or {more}",
        )


def generation_batches(lengths: Sequence[int], request: GenerationRequest) -> list[list[int]]:
    """Numbers of the prompts that are computed together: of one length, as many as `batch_tokens` holds.

    Args:
        lengths: tokens of each prompt.
        request: for max_new_tokens and batch_tokens.

    Raises:
        DataError: an empty prompt.
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for number, length in enumerate(lengths):
        if length < 1:
            raise DataError(
                f"prompts[{number}]", required="≥ 1 token", given="none", fix="give a prompt, or add BOS"
            )
        by_length[length].append(number)
    batches = []
    for length, numbers in sorted(by_length.items()):
        size = max(1, request.batch_tokens // (length + request.max_new_tokens))
        batches += [numbers[i : i + size] for i in range(0, len(numbers), size)]
    return batches


def generate_batch(
    next_logits: NextLogits,
    prompts: Sequence[Sequence[int]],
    numbers: Sequence[int],
    request: GenerationRequest,
) -> list[Generated]:
    """Go on from the prompts of one batch.

    Args:
        next_logits: of the model; called with the prompts first.
        prompts: all of them.
        numbers: which are in the batch; all of one length.
        request: what is asked for.
    """
    seeds = [request.sampling.seed + number for number in numbers]
    samplers = [Sampler(request.sampling, seed) for seed in seeds]

    def draw(logits_BV: Tensor) -> Tensor:
        rows = zip(samplers, logits_BV.split(1), strict=True)
        return torch.cat([sampler(logits_1V) for sampler, logits_1V in rows])

    def ended(new_BS: Tensor) -> Tensor:
        return torch.tensor([request.ends(row) for row in new_BS.tolist()])

    prompt_BS = torch.tensor([list(prompts[number]) for number in numbers], dtype=torch.int64)
    new_BS, lengths = extend_texts(next_logits, prompt_BS, request.max_new_tokens, draw, ended)
    rows = zip(new_BS.tolist(), lengths.tolist(), strict=True)
    return [request.finish(row[:length]) for row, length in rows]


def extend_texts(
    next_logits: NextLogits,
    prompt_BS: Tensor,
    max_new_tokens: int,
    draw: Callable[[Tensor], Tensor],
    ended: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Add token after token to texts of one length, until all have ended.

    Args:
        next_logits: of the model.
        prompt_BS: int64.
        max_new_tokens: at most.
        draw: next tokens [B] from logits [B, V].
        ended: whether each text ends with the last of its new tokens [B, new]; asked after every token.

    Returns:
        New tokens int64 [B, new], a row that ended earlier filled up with its last token; and how many of
        them are each row's own, int64 [B]. Both on the CPU.
    """
    text_BS, start = prompt_BS.cpu(), prompt_BS.size(1)
    lengths_B = torch.full((prompt_BS.size(0),), max_new_tokens)
    done_B = torch.zeros(prompt_BS.size(0), dtype=torch.bool)
    for count in range(1, max_new_tokens + 1):
        # Rows that have ended repeat their last token: they stay of one length with the others.
        next_B = torch.where(done_B, text_BS[:, -1], draw(next_logits(text_BS)))
        text_BS = torch.cat([text_BS, next_B[:, None]], dim=1)
        ends_B = ended(text_BS[:, start:]) & ~done_B
        lengths_B[ends_B] = count
        done_B |= ends_B
        if done_B.all():
            break
    return text_BS[:, start:], lengths_B
