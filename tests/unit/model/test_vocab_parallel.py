"""Log-probabilities and greedy choices against plain float64 logits, on one rank and on two."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import cross_entropy

from nemo_pi.errors import DataError
from nemo_pi.evaluation.scorer import score_logits
from nemo_pi.model.chunked_loss import weighted_loss_sum
from nemo_pi.model.vocab_parallel import check_labels, token_log_probs
from tests.unit.checkpoint.models import run_ranks

TOKENS, HIDDEN, VOCAB = 37, 24, 98


def inputs(dtype: torch.dtype = torch.float32, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, the whole projection, and labels of which every third is the greedy choice."""
    generator = torch.Generator().manual_seed(0)
    hidden_NH = torch.randn(TOKENS, HIDDEN, generator=generator, dtype=torch.float64).to(dtype)
    weight_VH = (scale * torch.randn(VOCAB, HIDDEN, generator=generator, dtype=torch.float64)).to(dtype)
    labels_N = torch.randint(0, VOCAB, (TOKENS,), generator=generator)
    labels_N[::3] = (hidden_NH @ weight_VH.t()).argmax(-1)[::3]
    return hidden_NH, weight_VH, labels_N


@pytest.mark.parametrize("chunk_tokens", [1, 8, 37, 1000])
@pytest.mark.parametrize("scale", [0.1, 30.0])
def test_equals_whole_logits(chunk_tokens: int, scale: float) -> None:
    hidden_NH, weight_VH, labels_N = inputs(scale=scale)
    expected_N, expected_greedy_N = score_logits(hidden_NH.double() @ weight_VH.double().t(), labels_N)
    logprob_N, greedy_N = token_log_probs(hidden_NH, weight_VH, labels_N, chunk_tokens=chunk_tokens)
    assert logprob_N.dtype == torch.float32 and greedy_N.dtype == torch.bool
    # fp32 logits near 600 are exact to 3e-5.
    torch.testing.assert_close(logprob_N, expected_N.float(), rtol=1e-5, atol=1e-5 * max(1.0, scale))
    assert torch.equal(greedy_N, expected_greedy_N) and TOKENS // 3 <= greedy_N.sum() < TOKENS


def test_a_bias_is_part_of_the_logits() -> None:
    hidden_NH, weight_VH, labels_N = inputs()
    bias_V = torch.linspace(-3, 3, VOCAB)
    expected_N, expected_greedy_N = score_logits(hidden_NH @ weight_VH.t() + bias_V, labels_N)
    logprob_N, greedy_N = token_log_probs(hidden_NH, weight_VH, labels_N, chunk_tokens=8, bias_V=bias_V)
    torch.testing.assert_close(logprob_N, expected_N, rtol=1e-5, atol=1e-5)
    assert torch.equal(greedy_N, expected_greedy_N)


def test_bf16_logits_get_an_fp32_softmax() -> None:
    hidden_NH, weight_VH, labels_N = inputs(torch.bfloat16)
    logits_NV = hidden_NH @ weight_VH.t()
    logprob_N, greedy_N = token_log_probs(hidden_NH, weight_VH, labels_N, chunk_tokens=8)
    expected_N, expected_greedy_N = score_logits(logits_NV, labels_N)
    torch.testing.assert_close(logprob_N, expected_N, rtol=1e-6, atol=1e-5)
    assert torch.equal(greedy_N, expected_greedy_N)


def test_of_equal_logits_the_lowest_index_is_greedy() -> None:
    hidden_NH, weight_VH = torch.ones(3, 1), torch.tensor([[0.5], [2.0], [1.0], [2.0]])
    _, greedy_N = token_log_probs(hidden_NH, weight_VH, torch.tensor([1, 3, 2]), chunk_tokens=2)
    assert greedy_N.tolist() == [True, False, False]


def test_a_broken_model_has_no_greedy_choice() -> None:
    hidden_NH, weight_VH, labels_N = inputs()
    weight_VH[60] = float("nan")
    logprob_N, greedy_N = token_log_probs(hidden_NH, weight_VH, labels_N, chunk_tokens=8)
    assert logprob_N.isnan().all() and not greedy_N.any()


@pytest.mark.parametrize("wrong", [-100, -1, VOCAB])
def test_labels_outside_the_vocabulary_are_refused(wrong: int) -> None:
    hidden_NH, weight_VH, labels_N = inputs()
    labels_N[5] = wrong
    with pytest.raises(DataError, match=f"labels: required token ids from 0 to {VOCAB - 1}.*{wrong}"):
        token_log_probs(hidden_NH, weight_VH, labels_N, chunk_tokens=8)


def test_the_magic_label_is_named() -> None:
    with pytest.raises(DataError, match=r"-100, which other frameworks take for 'ignore'.*loss_mask"):
        check_labels(torch.tensor([1, -100, 3]), VOCAB)


def test_no_labels_are_no_mistake() -> None:
    check_labels(torch.empty(0, dtype=torch.long), VOCAB)


def on_two_ranks(folder: Path) -> None:
    """Each rank holds half of the vocabulary; what both return is saved by rank."""
    group, rank = dist.group.WORLD, dist.get_rank()
    results = {}
    for name, (hidden_NH, weight_VH, labels_N) in split_cases().items():
        half_VH = weight_VH.chunk(2)[rank].contiguous()
        results[name] = token_log_probs(hidden_NH, half_VH, labels_N, chunk_tokens=8, group=group)
    labels_N = torch.full((TOKENS,), -100)
    with pytest.raises(DataError, match=f"to {VOCAB - 1}"):
        token_log_probs(hidden_NH, half_VH, labels_N, chunk_tokens=8, group=group)
    torch.save(results, folder / f"rank{rank}.pt")


def split_cases() -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Inputs by name: ordinary ones, ties across ranks, a NaN on one rank, one rank without any mass."""
    hidden_NH, weight_VH, labels_N = inputs()
    ties_VH, broken_VH = weight_VH.clone(), weight_VH.clone()
    ties_VH[VOCAB // 2 :] = ties_VH[: VOCAB // 2]
    broken_VH[60, 0] = float("nan")
    ones_NH, lone_VH = torch.ones(TOKENS, HIDDEN), torch.zeros(VOCAB, HIDDEN)
    lone_VH[: VOCAB // 2] = -50.0
    return {
        "plain": (hidden_NH, weight_VH, labels_N),
        "sharp": (hidden_NH, 30 * weight_VH, labels_N),
        "ties": (hidden_NH, ties_VH, (hidden_NH @ ties_VH.t()).argmax(-1)),
        "later of ties": (hidden_NH, ties_VH, (hidden_NH @ ties_VH.t()).argmax(-1) % 49 + 49),
        "broken": (hidden_NH, broken_VH, labels_N),
        "lone": (ones_NH, lone_VH, labels_N),
    }


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    run_ranks(tmp_path, on_two_ranks, tmp_path, world=2, tensor=2)
    results = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    for name, (hidden_NH, weight_VH, labels_N) in split_cases().items():
        expected = token_log_probs(hidden_NH, weight_VH, labels_N, chunk_tokens=100)
        for logprob_N, greedy_N in (result[name] for result in results):
            torch.testing.assert_close(logprob_N, expected[0], rtol=1e-5, atol=3e-4, equal_nan=True)
            assert torch.equal(greedy_N, expected[1]), name
    assert results[0]["ties"][1].all() and not results[0]["later of ties"][1].any()


PADDED = 13
"""Rows of padding, of numbers that would win every softmax."""


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_padding_is_no_token(dtype: torch.dtype) -> None:
    hidden_NH, weight_VH, labels_N = inputs(dtype)
    padded_VH = torch.cat([weight_VH, 50 * torch.ones(PADDED, HIDDEN, dtype=dtype)])
    expected = token_log_probs(hidden_NH, weight_VH, labels_N, chunk_tokens=8)
    found = token_log_probs(hidden_NH, padded_VH, labels_N, chunk_tokens=8, real_rows=VOCAB)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-6, atol=1e-6)
    assert torch.equal(found[1], expected[1])


def on_four_ranks(folder: Path) -> None:
    """Five tokens on four ranks: the third holds one and a row of padding, the last nothing else."""
    hidden_NH, weight_VH, labels_N = inputs()
    weight_VH, labels_N, rank = weight_VH[:5], labels_N % 5, dist.get_rank()
    own_VH = torch.full((2, HIDDEN), 9.0)
    own_VH[: len(weight_VH[2 * rank : 2 * rank + 2])] = weight_VH[2 * rank : 2 * rank + 2]
    real_rows = [None, None, 1, 0][rank]
    group = dist.group.WORLD
    scores = token_log_probs(hidden_NH, own_VH, labels_N, chunk_tokens=8, group=group, real_rows=real_rows)
    wide_NH, wide_VH = hidden_NH.double().requires_grad_(), own_VH.double().requires_grad_()
    weight_N = torch.ones(TOKENS)
    loss = weighted_loss_sum(
        wide_NH, wide_VH, labels_N, weight_N, chunk_tokens=8, group=group, real_rows=real_rows
    )
    gradients = torch.autograd.grad(loss, (wide_NH, wide_VH))
    torch.save((scores, loss.detach(), gradients), folder / f"rank{rank}.pt")


def test_a_rank_that_holds_padding_alone(tmp_path: Path) -> None:
    run_ranks(tmp_path, on_four_ranks, tmp_path, world=4, tensor=4)
    found = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(4)]
    hidden_NH, weight_VH, labels_N = inputs()
    weight_VH, labels_N = weight_VH[:5], labels_N % 5
    expected = token_log_probs(hidden_NH, weight_VH, labels_N, chunk_tokens=100)
    hidden_NH, weight_VH = hidden_NH.double().requires_grad_(), weight_VH.double().requires_grad_()
    loss = cross_entropy(hidden_NH @ weight_VH.t(), labels_N, reduction="sum")
    grad_hidden_NH, grad_weight_VH = torch.autograd.grad(loss, (hidden_NH, weight_VH))
    for (logprob_N, greedy_N), found_loss, _ in found:
        torch.testing.assert_close(logprob_N, expected[0], rtol=1e-5, atol=1e-5)
        assert torch.equal(greedy_N, expected[1])
        torch.testing.assert_close(found_loss, loss.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(sum(part[0] for _, _, part in found), grad_hidden_NH, rtol=1e-10, atol=1e-10)
    rows_VH = torch.cat([part[1] for _, _, part in found])
    torch.testing.assert_close(rows_VH[:5], grad_weight_VH, rtol=1e-10, atol=1e-10)
    assert torch.equal(rows_VH[5:], torch.zeros(3, HIDDEN, dtype=torch.float64)), "padding never moves"
