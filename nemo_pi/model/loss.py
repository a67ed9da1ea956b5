"""The training loss: summed over scored tokens, so that any split of a batch adds up to the same number.

Shape legend: B batch, S sequence.
"""

from __future__ import annotations

from torch import Tensor

from nemo_pi.errors import DataError
from nemo_pi.model.vocab_parallel import check_labels


def masked_sum(loss_BS: Tensor, loss_mask_BS: Tensor) -> Tensor:
    """The loss of scored tokens, summed in fp32.

    Args:
        loss_BS: per-token cross-entropy in nats.
        loss_mask_BS: 1 where a token is scored, 0 where not.
    """
    return (loss_BS.float() * loss_mask_BS.float()).sum()


def loss_report(loss_mask_BS: Tensor, loss_sum: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Megatron's three-part loss for calculate_per_token_loss.

    The schedule divides the gradient once, by the tokens of all micro-batches and ranks; a mean per
    micro-batch would weigh short ones too much.

    Args:
        loss_mask_BS: 1 where a token is scored, 0 where not.
        loss_sum: summed over scored tokens, a scalar in fp32.

    Returns:
        The sum, the number of scored tokens (int), and copies of both for logging.
    """
    tokens = loss_mask_BS.float().sum().int()
    # Cloned: the schedule rescales the first in place, and a view would log the rescaled value.
    return loss_sum, tokens, {"loss_sum": loss_sum.detach().clone(), "tokens": tokens.clone()}


def check_batch(tokens_BS: Tensor, labels_BS: Tensor, loss_mask_BS: Tensor, vocab_size: int) -> None:
    """Refuses what would otherwise give a finite, wrong loss.

    Labels are checked where they are not scored, too: what leaves a position out is the mask, never a label.

    Raises:
        DataError: an id below 0 or at or above vocab_size, or a mask of anything but 0 and 1.
    """
    check_labels(tokens_BS, vocab_size, "tokens")
    check_labels(labels_BS, vocab_size, "labels")
    if not ((loss_mask_BS == 0) | (loss_mask_BS == 1)).all():
        raise DataError(
            "data loss_mask",
            required="1 where a token is scored and 0 where it is not",
            given=f"values from {loss_mask_BS.min():g} to {loss_mask_BS.max():g}",
            fix="make it of zeros and ones",
        )
