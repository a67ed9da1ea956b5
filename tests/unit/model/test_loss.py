"""The summed loss, its weights, and the check of token ids."""

from __future__ import annotations

import pytest
import torch

from nemo_pi.errors import DataError
from nemo_pi.model.loss import check_token_ids, masked_loss_sum


def test_sums_scored_tokens_only() -> None:
    loss_BS = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    mask_BS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    total, tokens, logged = masked_loss_sum(mask_BS, loss_BS)
    assert (total.item(), tokens.item()) == (37.0, 3)
    assert tokens.dtype == torch.int
    assert (logged["loss_sum"].item(), logged["tokens"].item()) == (37.0, 3)


def test_nothing_scored_is_zero_of_zero() -> None:
    total, tokens, _ = masked_loss_sum(torch.zeros(1, 3), torch.full((1, 3), 5.0))
    assert (total.item(), tokens.item()) == (0.0, 0)


def test_micro_batches_add_up_to_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    loss_BS = torch.rand(6, 50, generator=generator)
    mask_BS = (torch.rand(6, 50, generator=generator) < torch.linspace(0, 1, 6)[:, None]).float()
    whole = masked_loss_sum(mask_BS, loss_BS)
    parts = [masked_loss_sum(mask_BS[i : i + 2], loss_BS[i : i + 2]) for i in (0, 2, 4)]
    torch.testing.assert_close(sum(part[0] for part in parts), whole[0])
    assert sum(int(part[1]) for part in parts) == int(whole[1])


def test_logged_copies_survive_in_place_division() -> None:
    """Megatron's schedule divides the loss in place after it was taken down."""
    total, tokens, logged = masked_loss_sum(torch.ones(1, 2), torch.tensor([[3.0, 5.0]]))
    total /= 4
    tokens += 1
    assert (logged["loss_sum"].item(), logged["tokens"].item()) == (8.0, 2)


def test_bf16_losses_are_summed_in_fp32() -> None:
    """4,096 ones: a bf16 sum would stop at 256."""
    total, _, _ = masked_loss_sum(torch.ones(1, 4096), torch.ones(1, 4096, dtype=torch.bfloat16))
    assert total.dtype == torch.float32 and total.item() == 4096


def test_gradient_is_the_mask() -> None:
    loss_BS = torch.ones(2, 3, requires_grad=True)
    mask_BS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    masked_loss_sum(mask_BS, loss_BS)[0].backward()
    assert loss_BS.grad is not None and torch.equal(loss_BS.grad, mask_BS)


@pytest.mark.parametrize("wrong", [-100, -1, 96, 2**31])
@pytest.mark.parametrize("where", ["tokens", "labels"])
def test_ids_outside_the_vocabulary_are_refused(where: str, wrong: int) -> None:
    ids = {"tokens": torch.tensor([[0, 95]]), "labels": torch.tensor([[95, 0]])}
    check_token_ids(ids["tokens"], ids["labels"], 96)
    ids[where] = torch.tensor([[3, wrong]])
    with pytest.raises(DataError, match=f"data {where}: required token ids from 0 to 95.*{wrong}"):
        check_token_ids(ids["tokens"], ids["labels"], 96)
