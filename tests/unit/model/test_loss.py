"""The loss that Megatron's schedule is given, and the check of what it is made from."""

from __future__ import annotations

import pytest
import torch

from nemo_pi.errors import DataError
from nemo_pi.model.loss import check_batch, loss_report, masked_sum

VOCAB = 96


def test_sums_scored_tokens_only() -> None:
    loss_BS = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]], requires_grad=True)
    mask_BS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    total = masked_sum(loss_BS, mask_BS)
    total.backward()
    assert total.item() == 37.0
    assert loss_BS.grad is not None and torch.equal(loss_BS.grad, mask_BS)


def test_bf16_losses_are_summed_in_fp32() -> None:
    """4,096 ones: a bf16 sum would stop at 256."""
    total = masked_sum(torch.ones(1, 4096, dtype=torch.bfloat16), torch.ones(1, 4096))
    assert total.dtype == torch.float32 and total.item() == 4096


def test_reports_sum_and_tokens() -> None:
    total, tokens, logged = loss_report(torch.tensor([[1.0, 0.0, 1.0]]), torch.tensor(37.0))
    assert (total.item(), tokens.item()) == (37.0, 2)
    assert tokens.dtype == torch.int
    assert (logged["loss_sum"].item(), logged["tokens"].item()) == (37.0, 2)


def test_logged_copies_survive_in_place_division() -> None:
    """Megatron's schedule divides the loss in place after it was taken down."""
    total, tokens, logged = loss_report(torch.ones(1, 2), torch.tensor(8.0))
    total /= 4
    tokens += 1
    assert (logged["loss_sum"].item(), logged["tokens"].item()) == (8.0, 2)


def test_the_report_is_not_part_of_the_graph() -> None:
    _, _, logged = loss_report(torch.ones(1, 2), torch.tensor(8.0, requires_grad=True) * 2)
    assert not logged["loss_sum"].requires_grad


@pytest.mark.parametrize("wrong", [-100, -1, VOCAB, 2**31])
@pytest.mark.parametrize("where", ["tokens", "labels"])
def test_ids_outside_the_vocabulary_are_refused(where: str, wrong: int) -> None:
    """Where they are not scored, too."""
    ids = {"tokens": torch.tensor([[0, 95]]), "labels": torch.tensor([[95, 0]])}
    mask_BS = torch.tensor([[1.0, 0.0]])
    check_batch(ids["tokens"], ids["labels"], mask_BS, VOCAB)
    ids[where] = torch.tensor([[3, wrong]])
    with pytest.raises(DataError, match=f"data {where}: required token ids from 0 to 95.*{wrong}"):
        check_batch(ids["tokens"], ids["labels"], mask_BS, VOCAB)


@pytest.mark.parametrize("wrong", [0.5, 2.0, -1.0, float("nan")])
def test_a_mask_is_zeros_and_ones(wrong: float) -> None:
    ids_BS = torch.zeros(1, 3, dtype=torch.long)
    with pytest.raises(DataError, match="data loss_mask: required 1 where a token is scored and 0"):
        check_batch(ids_BS, ids_BS, torch.tensor([[1.0, wrong, 0.0]]), VOCAB)
    check_batch(ids_BS, ids_BS, torch.tensor([[True, False, True]]), VOCAB)
