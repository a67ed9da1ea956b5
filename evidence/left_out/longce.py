"""LongCE (arXiv 2410.23771, section 4): a token's loss weighs as much as long context helps to predict it.

weight = min(p(token | everything before it) / p(token | a short context), most), without a gradient; the sum
is divided by the number of tokens, not of weights, as the authors do (PKU-ML/LongPPL, finetune.py).

Shape legend: B rows, S tokens of a row, R short contexts of one row.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from nemo_pi.evaluation.scorer import Scorer
from nemo_pi.rope.positions import text_positions

_CONTEXTS = 7
"""Short contexts of one forward pass."""


@dataclass(frozen=True)
class LongCE:
    """How tokens are weighed: the paper's K as a share of the base window (4,096 there, 512 here), and its γ.

    The authors let 1,024 tokens share a short context, a quarter of K. One that as many as K share costs
    less than half, and is of 512 to 1,023 tokens.
    """

    short: int = 512
    """Tokens of the short context, at least (K)."""
    stride: int = 512
    """Tokens that share one short context."""
    most: float = 5.0
    """Largest weight (γ)."""

    def weights(self, scorer: Scorer, batch: dict[str, Tensor]) -> Tensor:
        """Weight of each label of a batch, fp32 [B, S]; arguments as of `log_probs`."""
        long_BS, short_BS = self.log_probs(scorer, batch)
        return (long_BS - short_BS).exp().clamp(max=self.most).float()

    def log_probs(self, scorer: Scorer, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Rate each label after everything before it, and after a short context.

        Args:
            scorer: the model as it is now.
            batch: whole rows, as data.samples makes them.

        Returns:
            Two times log-probabilities, fp64 [B, S]. They are the same where no more than a short context
            stands before the predicted token, and of the last label, whose token is not in the row.
        """
        tokens_BS, labels_BS = batch["tokens"], batch["labels"]
        long_BS = scorer.score(tokens_BS, labels_BS, batch["position_ids"]).logprob_BS.double()
        short_BS = long_BS.clone()
        for row, (tokens_S, labels_S) in enumerate(zip(tokens_BS, labels_BS, strict=True)):
            starts = range(0, len(tokens_S) - self.short, self.stride)
            pieces = self._short(scorer, tokens_S, labels_S, starts)
            for start, piece_S in zip(starts, pieces, strict=True):
                # The label at i is token i + 1: the first one predicted is token start + short.
                own = slice(start + self.short - 1, start + len(piece_S) - 1)
                short_BS[row, own] = piece_S[self.short - 1 : -1]
        return long_BS, short_BS

    def _short(self, scorer: Scorer, tokens_S: Tensor, labels_S: Tensor, starts: range) -> list[Tensor]:
        """Log-probabilities of one row's labels within each short context."""
        span, found = self.short + self.stride, []
        for first in range(0, len(starts), _CONTEXTS):
            chosen = starts[first : first + _CONTEXTS]
            # Padding behind a text changes nothing before it.
            tokens_RS, labels_RS = (
                pad_sequence([ids_S[start : start + span] for start in chosen], batch_first=True)
                for ids_S in (tokens_S, labels_S)
            )
            positions_RS = text_positions(tokens_RS.size(1)).expand_as(tokens_RS)
            scores_RS = scorer.score(tokens_RS, labels_RS, positions_RS).logprob_BS.double()
            ends = (min(span, len(tokens_S) - start) for start in chosen)
            found += [scores_S[:end] for scores_S, end in zip(scores_RS, ends, strict=True)]
        return found
