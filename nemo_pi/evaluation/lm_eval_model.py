"""Our scorers as lm-eval knows models: any of its tasks runs on a checkpoint of either kind at any layout.

Only imported where lm-eval is installed. Contexts are cut on the left to the target window, as lm-eval's own
Hugging Face backend cuts them to the model's.

Shapes: B texts in a batch, S tokens of a text.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from nemo_pi.errors import ConfigError
from nemo_pi.evaluation.generation import GenerationRequest, generation_batches
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
        self._start: tuple[int, ...] = start_ids(context.tokenizer) if context.add_bos else ()

    @property
    def eot_token_id(self) -> int:
        """What ends a text; where there is nothing, what begins one."""
        tokenizer = self.context.tokenizer
        known = (tokenizer.eod_id, *self.context.end_ids, tokenizer.bos_id)
        found = next((token for token in known if token is not None), None)
        if found is None:
            raise ConfigError(
                "tasks.lm_eval",
                required="a tokenizer with an end-of-text or beginning-of-text token",
                given="one with neither",
                fix="give a tokenizer that has one, or leave the task out",
            )
        return found

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context."""
        bos = self.context.tokenizer.bos_id
        return self.eot_token_id if bos is None else bos

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids, behind what begins a text unless that is switched off or written out in the text."""
        start = self._start
        if add_special_tokens is False or (add_special_tokens is None and self._is_begun(string)):
            start = ()
        return [*start, *self.context.tokenizer.encode(string)]

    def _is_begun(self, string: str) -> bool:
        """Whether a text, of a prompt's template say, brings what begins it."""
        if not self._start:
            return False
        written = self.context.tokenizer.decode([self.prefix_token_id])
        return bool(written) and string.startswith(written)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """lm-eval's own, without its progress bar: there is ours."""
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return found

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
        window, begin = self.context.target_window, self.prefix_token_id
        pairs = [
            (number, (None, *make_disjoint_window(rolled)))
            for number, request in enumerate(requests)
            for rolled in get_rolling_token_windows(
                self.tok_encode(request.args[0]), begin, window, context_len=1
            )
        ]
        sums = [0.0] * len(requests)
        scores = self._loglikelihood_tokens([pair for _, pair in pairs])
        for (number, _), (logprob, _) in zip(pairs, scores, strict=True):
            sums[number] += logprob
        return sums

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What follows each context, up to a stop string or the number of tokens that the task allows."""
        groups: dict[str, list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            groups[repr(sorted(request.args[1].items()))].append(number)
        found: dict[int, str] = {}
        for numbers in groups.values():
            asked = self._request(normalize_gen_kwargs(requests[numbers[0]].args[1], _MOST_NEW))
            room = self.context.target_window - asked.max_new_tokens
            prompts = {number: self.tok_encode(requests[number].args[0])[-room:] for number in numbers}
            # Shortest first, so that prompts of one length are neighbours; each keeps its draws' seed.
            order = sorted(numbers, key=lambda number: (len(prompts[number]), number))
            for places in generation_batches([len(prompts[number]) for number in order], asked):
                batch = [order[place] for place in places]
                seed = asked.sampling.seed + places[0]
                own = replace(asked, sampling=replace(asked.sampling, seed=seed))
                texts = self.scorer.generate([prompts[number] for number in batch], own)
                for number, text in zip(batch, texts, strict=True):
                    found[number] = postprocess_generated_text(text.text or "", list(own.stop_strings), None)
                self.done(sum(len(prompts[number]) + own.max_new_tokens for number in batch))
        return [found[number] for number in range(len(requests))]

    def _request(self, wanted: Any) -> GenerationRequest:
        """What a task wants generated, as scorers take it."""
        new, context = wanted["max_gen_toks"], self.context
        if context.target_window - new < 1:
            raise ConfigError(
                "target_window",
                required=f"more than the {new} tokens that the task generates",
                given=context.target_window,
                fix="raise it, or leave the task out",
            )
        # lm-eval stops at the tokenizer's end of text also where the model has other ends.
        ends = (*context.end_ids, context.tokenizer.eod_id)
        return GenerationRequest(
            new,
            sampling=_sampling(wanted),
            stop_ids=tuple(dict.fromkeys(token for token in ends if token is not None)),
            stop_strings=tuple(stop for stop in wanted["until"] if stop),
            decode=context.tokenizer.decode,
            batch_tokens=context.batch_tokens,
        )


def _sampling(wanted: Any) -> Sampling:
    if not wanted.get("do_sample"):
        return Sampling()
    known = {key: wanted[key] for key in ("temperature", "top_k", "top_p") if wanted.get(key) is not None}
    return Sampling(**known)
