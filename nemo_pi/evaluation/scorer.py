"""What evaluation asks of a model: to rate labels (log-probability, greedy choice), and to generate.

Everything in this package takes a `Scorer`, never a model class, so a Hugging Face folder and a model that is
spread over many ranks are measured by the same code.

Shapes: B windows in a batch, S tokens in a window, N = B*S, H hidden size, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from nemo_pi.evaluation.generation import Generated, GenerationRequest
from nemo_pi.rope.positions import text_positions


@dataclass(frozen=True)
class TokenScores:
    """How a model rates one label per input token."""

    logprob_BS: Tensor
    """fp32, natural logarithm of the label's probability, computed from fp32 logits."""
    is_greedy_BS: Tensor
    """bool, whether the label is the arg max of the logits (the lowest index of several)."""


@runtime_checkable
class Scorer(Protocol):
    """A model that can rate labels under teacher forcing, and generate.

    An implementation must attend causally over the whole window, place token i at `position_ids_BS[b, i]`
    whatever its index, and draw no conclusion from gaps in the positions. Every label is an id of the
    vocabulary: there is no ignore value; callers drop the scores they do not want.
    """

    @property
    def name(self) -> str:
        """What the report calls this model if the caller gives no better name."""

    def score(self, tokens_BS: Tensor, labels_BS: Tensor, position_ids_BS: Tensor) -> TokenScores:
        """Rate `labels_BS[b, i]` as the successor of `tokens_BS[b, :i + 1]`; all three tensors are int64."""

    def generate(self, prompts: Sequence[Sequence[int]], request: GenerationRequest) -> list[Generated]:
        """Go on from prompts of any lengths (token ids); what follows each is what would follow it alone."""


def score_texts(scorer: Scorer, text_BS: Tensor) -> TokenScores:
    """Rate every token but the first of texts that are read from position 0; [B, S - 1].

    Args:
        scorer: the model.
        text_BS: token ids int64, one text a row.
    """
    tokens_BS, labels_BS = text_BS[:, :-1], text_BS[:, 1:]
    return scorer.score(tokens_BS, labels_BS, text_positions(tokens_BS.size(1)).expand_as(tokens_BS))


def score_logits(logits_NV: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """The labels' log-probabilities [N] fp32 and greedy flags [N] bool, from logits [N, V] of any dtype.

    For models whose logits come whole, from elsewhere (transformers). Megatron's vocabulary may be split over
    ranks: `model.vocab_parallel.token_log_probs` rates there, never makes whole logits, and is tested against
    this.

    The softmax is taken in fp32: bf16 log-probabilities would be off by up to 0.4%, a fiftieth of a nat at
    perplexity 100.
    """
    logits_NV = logits_NV.float()
    chosen_N = logits_NV.gather(-1, labels_N[:, None]).squeeze(-1)
    maximum_N = logits_NV.amax(-1)
    # torch.argmax promises nothing about ties. NaN equals nothing: a broken model has no greedy choice.
    first_best_N = (logits_NV == maximum_N[:, None]).int().argmax(-1)
    is_greedy_N = (chosen_N == maximum_N) & (first_best_N == labels_N)
    return chosen_N - logits_NV.logsumexp(-1), is_greedy_N


def score_hidden(
    hidden_NH: Tensor, labels_N: Tensor, project: Callable[[Tensor], Tensor], chunk_tokens: int
) -> tuple[Tensor, Tensor]:
    """Score hidden states through `project` (hidden [n, H] → logits [n, V]), `chunk_tokens` rows at a time.

    Only one chunk's logits exist at a time: a 32k window over a 128k vocabulary would need 16.8 GB in fp32.
    """
    parts = [
        score_logits(project(hidden), labels)
        for hidden, labels in zip(hidden_NH.split(chunk_tokens), labels_N.split(chunk_tokens), strict=True)
    ]
    return torch.cat([logprob for logprob, _ in parts]), torch.cat([greedy for _, greedy in parts])
