"""The softmax of a vocabulary that may be split over tensor-parallel ranks, a chunk of tokens at a time.

Whole logits are the largest tensor of a long sequence (32k tokens × 128k entries are 16.8 GB in fp32). Here
a rank computes the logits of one chunk and of its own rows, and ranks exchange three numbers per token.

Shape legend: N tokens, n tokens of one chunk, H hidden size, V rows of the vocabulary on this rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from nemo_pi.errors import check_ids
from nemo_pi.kernels.products import TORCH, TorchProducts
from nemo_pi.kernels.softmax import TORCH_SOFTMAX, TorchSoftmax


class ChunkBuffers:
    """Logits and log-softmax of one chunk, written anew by every chunk.

    Made once: allocators seldom fit a large tensor into the hole that another of its size left (glibc's
    aligned allocation never does), so that memory would grow with every chunk.

    Args:
        tokens: of the largest chunk.
        weight_VH: this rank's rows of the output projection.
        keep_logits: whether logits are read again after their log-softmax. If not, it takes their place where
            it has their dtype and a CPU computes it, row by row.
        products: what multiplies.
        real_rows: rows of `weight_VH` that are tokens; those behind are padding, which no softmax may see.
            None: all of them.

    Attributes:
        one_place: whether the log-softmax takes the logits' place.
    """

    def __init__(
        self,
        tokens: int,
        weight_VH: Tensor,
        *,
        keep_logits: bool,
        products: TorchProducts = TORCH,
        real_rows: int | None = None,
    ) -> None:
        self._products, self._real_rows = products, real_rows
        rows, wide = weight_VH.size(0), accumulator_dtype(weight_VH)
        self._logits_cV = weight_VH.new_empty(tokens, rows)
        self.one_place = not keep_logits and wide == weight_VH.dtype and weight_VH.device.type == "cpu"
        self._logprob_cV = (
            self._logits_cV if self.one_place else weight_VH.new_empty(tokens, rows, dtype=wide)
        )

    def logits(self, hidden_nH: Tensor, weight_VH: Tensor, bias_V: Tensor | None = None) -> Tensor:
        """hidden · weightᵀ + bias [n, V] in their dtype; HIDDEN in columns of padding."""
        out_nV = self._logits_cV[: hidden_nH.size(0)]
        logits_nV = self._products.times_transposed_into(out_nV, hidden_nH, weight_VH)
        if bias_V is not None:
            logits_nV.add_(bias_V)
        return logits_nV if self._real_rows is None else hide_padding(logits_nV, self._real_rows)

    def logprob(self, logits_nV: Tensor) -> Tensor:
        """The log-softmax [n, V] over this rank's rows, fp32 (fp64 of fp64 logits)."""
        out_nV = self._logprob_cV[: logits_nV.size(0)]
        return torch.log_softmax(logits_nV, dim=-1, dtype=out_nV.dtype, out=out_nV)

    def as_factor(self, wide_nV: Tensor) -> Tensor:
        """`wide_nV` in the dtype of the weights, over the logits unless that is its own."""
        logits_nV = self._logits_cV[: wide_nV.size(0)]
        return wide_nV if wide_nV.dtype == logits_nV.dtype else logits_nV.copy_(wide_nV)


HIDDEN = -1e30
"""The logit of what is no token: its probability and its gradient are exactly 0. Finite, because a rank that
holds nothing but padding takes the softmax of its rows, too."""


def hide_padding(logits: Tensor, real_rows: int) -> Tensor:
    """Logits [..., V], those from index `real_rows` on set to HIDDEN (fp16: its least number), in place."""
    logits[..., real_rows:] = max(HIDDEN, torch.finfo(logits.dtype).min)
    return logits


@dataclass(frozen=True)
class LocalSoftmax:
    """A chunk's softmax over this rank's rows, and how to make it one over the whole vocabulary."""

    values_nV: Tensor
    """Log-probabilities or probabilities, fp32 (fp64 for fp64 weights), normalised over this rank's rows."""
    are_probs: bool
    """Which of the two."""
    label_n: Tensor
    """Log-probability of the label's row."""
    row_n: Tensor
    """The label's row on this rank; 0 where another rank holds it."""
    here_n: Tensor | None
    """Whether this rank holds the label; None where it holds the whole vocabulary."""
    logsumexp_n: Tensor
    """Of this rank's logits."""


def token_log_probs(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    labels_N: Tensor,
    *,
    chunk_tokens: int,
    group: dist.ProcessGroup | None = None,
    bias_V: Tensor | None = None,
    products: TorchProducts = TORCH,
    real_rows: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The labels' log-probabilities and whether each is the greedy choice, without any gradient.

    Args:
        hidden_NH: final hidden states, the same on every rank of `group`.
        weight_VH: this rank's rows of the output projection, ranks in order.
        labels_N: int64 ids of the whole vocabulary.
        chunk_tokens: tokens whose logits exist at once.
        group: ranks the vocabulary is split over; None where this rank holds it all.
        bias_V: what is added to the logits of this rank's rows.
        products: what multiplies.
        real_rows: as ChunkBuffers.

    Returns:
        fp32 log-probabilities [N] in nats, and bool [N]: the label has the largest logit, and the lowest
        index where several share it (never where a logit is NaN). The same on every rank.

    Raises:
        DataError: a label outside the vocabulary.
    """
    check_labels(labels_N, weight_VH.size(0) * (1 if group is None else dist.get_world_size(group)))
    parts = []
    with torch.no_grad():
        tokens = min(chunk_tokens, labels_N.numel())
        buffers = ChunkBuffers(tokens, weight_VH, keep_logits=True, products=products, real_rows=real_rows)
        for hidden_nH, labels_n in zip(
            hidden_NH.split(chunk_tokens), labels_N.split(chunk_tokens), strict=True
        ):
            logits_nV = buffers.logits(hidden_nH, weight_VH, bias_V)
            softmax = local_softmax(logits_nV, buffers, labels_n, group)
            loss_n, _ = across_ranks(softmax, group)
            parts.append((-loss_n.float(), _is_greedy(logits_nV, labels_n, group)))
    return torch.cat([logprob for logprob, _ in parts]), torch.cat([greedy for _, greedy in parts])


def check_labels(labels: Tensor, vocab_size: int, name: str = "labels") -> None:
    """Refuses ids outside the vocabulary, which ranks that share it would silently take for another's.

    Args:
        labels: token ids of any shape.
        vocab_size: entries of the whole vocabulary.
        name: what the ids are, for the message.

    Raises:
        DataError: an id below 0 or at or above vocab_size.
    """
    if not labels.numel():
        return
    low, high = (int(bound) for bound in torch.aminmax(labels))
    fix = "tokenize the data with the checkpoint's own tokenizer; exclude positions by loss_mask"
    check_ids(f"data {name}", low, high, vocab_size, whose="the model's vocabulary", fix=fix)


def local_softmax(
    logits_nV: Tensor,
    buffers: ChunkBuffers,
    labels_n: Tensor,
    group: dist.ProcessGroup | None,
    kernel: TorchSoftmax = TORCH_SOFTMAX,
) -> LocalSoftmax:
    """The softmax of a chunk's logits over this rank's rows, and where in it each label [n] is."""
    row_n, here_n = labels_n, None
    if group is not None:
        rows = logits_nV.size(1)
        row_n = labels_n - dist.get_rank(group) * rows
        here_n = (row_n >= 0) & (row_n < rows)
        row_n = row_n.where(here_n, 0)
    if buffers.one_place and kernel.takes(logits_nV):
        label_n, logsumexp_n = kernel.softmax_(logits_nV, row_n)
        return LocalSoftmax(logits_nV, True, label_n, row_n, here_n, logsumexp_n)
    # Before the log-softmax takes the place of the logits. A logit less its log-probability is the log-sum-
    # exp, whichever entry is taken: no second pass over the row.
    first_n = logits_nV[:, 0].clone()
    logprob_nV = buffers.logprob(logits_nV)
    label_n = logprob_nV.gather(1, row_n[:, None]).squeeze(1)
    logsumexp_n = first_n.to(logprob_nV.dtype) - logprob_nV[:, 0]
    return LocalSoftmax(logprob_nV, False, label_n, row_n, here_n, logsumexp_n)


def across_ranks(softmax: LocalSoftmax, group: dist.ProcessGroup | None) -> tuple[Tensor, Tensor | None]:
    """Cross-entropy [n] over the whole vocabulary, and what to add to this rank's log-softmax [n] for it."""
    if group is None or softmax.here_n is None:
        return -softmax.label_n, None
    # Relative to the largest of the ranks, so that no exponential overflows.
    highest_n = softmax.logsumexp_n.clone()
    dist.all_reduce(highest_n, dist.ReduceOp.MAX, group=group)
    below_n = softmax.logsumexp_n - highest_n
    # One reduction for both; the label counts on the rank that holds it alone.
    sums_2n = torch.stack([below_n.exp(), (softmax.label_n + below_n).where(softmax.here_n, 0.0)])
    dist.all_reduce(sums_2n, group=group)
    whole_n = sums_2n[0].log()
    return whole_n - sums_2n[1], below_n - whole_n


def logit_gradient(softmax: LocalSoftmax, shift_n: Tensor | None) -> Tensor:
    """softmax − one-hot [n, V] of the whole vocabulary, in place of the local one."""
    prob_nV = softmax.values_nV if softmax.are_probs else softmax.values_nV.exp_()
    if shift_n is not None:
        prob_nV.mul_(shift_n.exp()[:, None])
    one_n = torch.ones_like(softmax.row_n, dtype=prob_nV.dtype)
    if softmax.here_n is not None:
        one_n = one_n.where(softmax.here_n, 0.0)
    return prob_nV.scatter_add_(1, softmax.row_n[:, None], -one_n[:, None])


def _is_greedy(logits_nV: Tensor, labels_n: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Whether each label is the lowest index with the largest logit: argmax promises nothing about ties."""
    rows = logits_nV.size(1)
    highest_n = logits_nV.amax(-1)
    if group is not None:
        highest_n = _reduced_maximum(highest_n.float(), group)
    is_best_nV = logits_nV == highest_n[:, None]
    index_V = torch.arange(rows, device=logits_nV.device, dtype=torch.int32)
    none = torch.iinfo(torch.int32).max
    if group is None:
        return index_V.where(is_best_nV, none).amin(-1) == labels_n
    first_n = (index_V + dist.get_rank(group) * rows).where(is_best_nV, none).amin(-1)
    dist.all_reduce(first_n, dist.ReduceOp.MIN, group=group)
    return first_n == labels_n


def _reduced_maximum(values_n: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The maximum over ranks; NaN where any rank has one, which a reduction may or may not hand on."""
    both_2n = torch.stack([values_n.nan_to_num(nan=float("-inf")), values_n.isnan().to(values_n.dtype)])
    dist.all_reduce(both_2n, dist.ReduceOp.MAX, group=group)
    return both_2n[0].masked_fill(both_2n[1] > 0, float("nan"))


def accumulator_dtype(tensor: Tensor) -> torch.dtype:
    """What sums over a tensor's entries are kept in: fp32, or fp64 for fp64."""
    return torch.promote_types(tensor.dtype, torch.float32)
