"""The training loss: summed over scored tokens, so that any split of a batch adds up to the same number.

Shape legend: B batch, S sequence.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nemo_pi.errors import DataError


def masked_loss_sum(loss_mask_BS: Tensor, loss_BS: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Megatron's three-part loss for calculate_per_token_loss.

    The schedule divides the gradient once, by the tokens of all micro-batches and ranks; a mean per
    micro-batch would weigh short ones too much.

    Args:
        loss_mask_BS: 1 where a token is scored, 0 where not.
        loss_BS: per-token cross-entropy in nats, fp32.

    Returns:
        The sum, the number of scored tokens (int), and copies of both for logging.
    """
    mask = loss_mask_BS.float()
    total = (loss_BS.float() * mask).sum()
    tokens = mask.sum().to(torch.int)
    # Cloned: the schedule rescales the first in place, and a view would log the rescaled value.
    return total, tokens, {"loss_sum": total.detach().clone(), "tokens": tokens.detach().clone()}


def check_token_ids(tokens_BS: Tensor, labels_BS: Tensor, vocab_size: int) -> None:
    """Refuses ids that vocabulary-parallel layers would silently mask.

    Raises:
        DataError: an id below 0 or at or above vocab_size.
    """
    for name, ids in (("tokens", tokens_BS), ("labels", labels_BS)):
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= vocab_size:
            raise DataError(
                f"data {name}",
                required=f"token ids from 0 to {vocab_size - 1} (the model's vocabulary)",
                given=f"ids from {low} to {high}",
                mend="tokenize the data with the checkpoint's own tokenizer; exclude positions by loss_mask",
            )
