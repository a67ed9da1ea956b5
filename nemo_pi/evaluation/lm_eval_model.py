"""Our scorers as lm-eval knows models: any of its tasks runs on a checkpoint of either kind at any layout.

Only imported where lm-eval is installed. Contexts are cut on the left to the target window, as lm-eval's own
Hugging Face backend cuts them to the model's.

Shapes: B texts in a batch, S tokens of a text.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from nemo_pi.errors import ConfigError
from nemo_pi.evaluation.generation import GenerationRequest
from nemo_pi.evaluation.passkey_text import start_ids
from nemo_pi.evaluation.sampling import Sampling
from nemo_pi.evaluation.scorer import Scorer, score_texts
from nemo_pi.evaluation.tasks.base import TaskContext, batched

_MOST_NEW = 256
"""Tokens of an answer where a task does not say, as in lm-eval's own backends."""
_Pair = tuple[Any, list[int], list[int]]
"""Whatever it came from, a context's tokens and a continuation's."""


class ScorerModel(TemplateLM):
    """A scorer with lm-eval's three methods; tokenisation of pairs and empty contexts is lm-eval's own."""

    def __init__(self, scorer: Scorer, context: TaskContext, done: Callable[[int], None]) -> None:
        """Wrap a scorer.

        Args:
            scorer: the model.
            context: its tokenizer and windows.
            done: called with the tokens that a batch has read and generated.
        """
        super().__init__()
        self.scorer, self.context, self.done = scorer, context, done
        self._start = start_ids(context.tokenizer) if context.add_bos else ()

    @property
    def eot_token_id(self) -> int:
        """What ends a text; where there is nothing, what begins one."""
        tokenizer = self.context.tokenizer
        ends = self.context.end_ids or tuple(i for i in (tokenizer.eod_id, tokenizer.bos_id) if i is not None)
        if not ends:
            raise ConfigError(
                "tasks.lm_eval",
                required="a tokenizer with an end-of-text or beginning-of-text token",
                given="one with neither",
                fix="give a tokenizer that has one, or leave the task out",
            )
        return ends[0]

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context."""
        bos = self.context.tokenizer.bos_id
        return self.eot_token_id if bos is None else bos

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids, behind what begins a text unless that is switched off."""
        start = [] if add_special_tokens is False else self._start
        return [*start, *self.context.tokenizer.encode(string)]

    def _loglikelihood_tokens(self, requests: Sequence[_Pair], **_: Any) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, and whether greedy decoding would write it."""
        # Texts of one length go together, so that none is padded: padding would change dynamic frequencies.
        by_length: dict[int, list[int]] = defaultdict(list)
        texts = []
        for number, (_, before, after) in enumerate(requests):
            texts.append([*before, *after][-(self.context.target_window + 1) :])
            by_length[len(texts[-1])].append(number)
        found: dict[int, tuple[float, bool]] = {}
        for length, numbers in sorted(by_length.items()):
            for batch in batched(numbers, max(1, self.context.batch_tokens // length)):
                ids = torch.tensor([texts[number] for number in batch])
                scores = score_texts(self.scorer, ids)
                for row, number in enumerate(batch):
                    last = min(len(requests[number][2]), length - 1)
                    logprob_S = scores.logprob_BS[row, -last:].cpu().double()
                    greedy = bool(scores.is_greedy_BS[row, -last:].all())
                    found[number] = float(logprob_S.sum()), greedy
                self.done(scores.logprob_BS.numel())
        return [found[number] for number in range(len(requests))]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of whole texts, in windows that each score what the ones before have not."""
        window, sums = self.context.target_window, []
        for request in requests:
            (text,) = request.args
            rolled = get_rolling_token_windows(
                self.context.tokenizer.encode(text), self.prefix_token_id, window, context_len=1
            )
            pairs = [(None, *make_disjoint_window(pair)) for pair in rolled]
            sums.append(sum(logprob for logprob, _ in self._loglikelihood_tokens(pairs)))
        return sums

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What follows each context, up to a stop string or the number of tokens that the task allows."""
        groups: dict[str, list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            groups[repr(sorted(request.args[1].items()))].append(number)
        found: dict[int, str] = {}
        for numbers in groups.values():
            wanted = normalize_gen_kwargs(requests[numbers[0]].args[1], _MOST_NEW)
            new, stops = wanted["max_gen_toks"], tuple(stop for stop in wanted["until"] if stop)
            room = self.context.target_window - new
            if room < 1:
                raise ConfigError(
                    "target_window",
                    required=f"more than the {new} tokens that the task generates",
                    given=self.context.target_window,
                    fix="raise it, or leave the task out",
                )
            prompts = [self.tok_encode(requests[number].args[0])[-room:] for number in numbers]
            asked = GenerationRequest(
                new,
                sampling=_sampling(wanted),
                stop_ids=self.context.end_ids,
                stop_strings=stops,
                decode=self.context.tokenizer.decode,
                batch_tokens=self.context.batch_tokens,
            )
            for number, text in zip(numbers, self.scorer.generate(prompts, asked), strict=True):
                found[number] = postprocess_generated_text(text.text or "", list(stops), None)
            self.done(sum(map(len, prompts)) + new * len(prompts))
        return [found[number] for number in range(len(requests))]


def _sampling(wanted: Any) -> Sampling:
    if not wanted.get("do_sample"):
        return Sampling()
    known = {key: wanted[key] for key in ("temperature", "top_k", "top_p") if wanted.get(key) is not None}
    return Sampling(**known)
