"""Which token comes next: the likeliest, or one drawn from the likeliest.

Shape legend: B rows, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nemo_pi.errors import ConfigError


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. As transformers: temperature first, then top-k, then top-p of what is left."""

    temperature: float = 0.0
    """Divides the logits; 0 takes the likeliest token instead of drawing (greedy)."""
    top_k: int | None = None
    """Draw among this many likeliest tokens; None: all."""
    top_p: float | None = None
    """Draw among the fewest likeliest tokens that together reach this probability; None: all."""
    seed: int = 1234
    """Of the draws."""

    def __post_init__(self) -> None:
        for field, allowed, required in (
            ("temperature", *_temperature(self.temperature)),
            ("top_k", self.top_k is None or self.top_k >= 1, "≥ 1 token"),
            ("seed", 0 <= self.seed < 2**63, "from 0 to 2^63 - 1"),
            ("top_p", self.top_p is None or 0 < self.top_p <= 1, "above 0 and at most 1"),
        ):
            if not allowed:
                raise ConfigError(field, required=required, given=getattr(self, field), fix="correct it")
        if self.temperature == 0 and (self.top_k, self.top_p) != (None, None):
            raise ConfigError(
                "temperature",
                required="above 0 where top_k or top_p is given: without drawing they mean nothing",
                given=0,
                fix="give a temperature such as 1.0, or leave top_k and top_p out",
            )


def _temperature(value: float) -> tuple[bool, str]:
    # Below, logits divided by it would leave what float64 can hold.
    return value == 0 or 1e-6 <= value < float("inf"), "0 (greedy), or a finite number from 1e-6 up"


class Sampler:
    """Draws one token after the other; the same logits and seed give the same tokens.

    Draws are made on the CPU from float64, so that they depend neither on the device nor on the rank: ranks
    that share a model hold the same logits and need not tell each other what they drew.

    transformers' logits processors keep the same tokens, but their probabilities differ in the last bits, and
    a draw can hang on these: with them, today's seeds would give other texts.

    Args:
        sampling: what is drawn from.
        seed: in place of the sampling's own.
    """

    def __init__(self, sampling: Sampling, seed: int | None = None) -> None:
        self.sampling = sampling
        self._generator = torch.Generator().manual_seed(sampling.seed if seed is None else seed)

    def __call__(self, logits_BV: Tensor) -> Tensor:
        """The next token of each row, int64 [B] on the CPU."""
        logits_BV = logits_BV.double().cpu()
        if self.sampling.temperature == 0:
            return logits_BV.max(-1).indices  # the first of several equal ones
        prob_BV = kept_probabilities(logits_BV, self.sampling)
        return torch.multinomial(prob_BV, 1, generator=self._generator).squeeze(1)


def kept_probabilities(logits_BV: Tensor, sampling: Sampling) -> Tensor:
    """What tokens are drawn from, [B, V]: 0 for tokens that are out of the question."""
    logits_BV = logits_BV / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < logits_BV.size(-1):
        least_B1 = logits_BV.topk(sampling.top_k).values[:, -1:]
        # Tokens as likely as the last one kept are kept too.
        logits_BV = logits_BV.masked_fill(logits_BV < least_B1, -torch.inf)
    prob_BV = logits_BV.softmax(-1)
    if sampling.top_p is not None and sampling.top_p < 1:
        sorted_BV, order_BV = prob_BV.sort(descending=True, stable=True)
        # What is likelier than each token, without it: so the likeliest is kept however small top_p is.
        before_BV = sorted_BV.cumsum(-1) - sorted_BV
        out_BV = (before_BV >= sampling.top_p).scatter(-1, order_BV, before_BV >= sampling.top_p)
        prob_BV = prob_BV.masked_fill(out_BV, 0.0)
        prob_BV = prob_BV / prob_BV.sum(-1, keepdim=True)
    return prob_BV
