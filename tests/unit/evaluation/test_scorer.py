from __future__ import annotations

import pytest
import torch

from nemo_pi.evaluation.scorer import score_hidden, score_logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_log_probabilities_equal_a_float64_softmax(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    logits, labels = (torch.randn(50, 33) * 10).to(dtype), torch.randint(33, (50,))
    logprob, greedy = score_logits(logits, labels)
    expected = torch.log_softmax(logits.double(), -1)[torch.arange(50), labels]
    assert logprob.dtype == torch.float32
    torch.testing.assert_close(logprob.double(), expected, rtol=1e-6, atol=1e-5)
    unique_best = logits.amax(-1, keepdim=True).eq(logits).sum(-1) == 1
    assert torch.equal(greedy[unique_best], (logits.argmax(-1) == labels)[unique_best])


def test_a_tie_goes_to_the_lowest_index() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0, 2.0]]).expand(4, 4)
    assert score_logits(logits, torch.arange(4))[1].tolist() == [False, True, False, False]


def test_not_a_number_is_nobodys_greedy_choice() -> None:
    logprob, greedy = score_logits(torch.full((3, 5), torch.nan), torch.tensor([0, 1, 2]))
    assert logprob.isnan().all()
    assert not greedy.any()


@pytest.mark.parametrize("chunk_tokens", [1, 7, 20, 1000])
def test_chunks_give_what_the_whole_gives_and_are_never_larger(chunk_tokens: int) -> None:
    torch.manual_seed(0)
    head, hidden, labels = torch.nn.Linear(8, 30), torch.randn(20, 8), torch.randint(30, (20,))
    rows: list[int] = []

    def project(hidden: torch.Tensor) -> torch.Tensor:
        rows.append(len(hidden))
        return head(hidden)

    logprob, greedy = score_hidden(hidden, labels, project, chunk_tokens)
    expected_logprob, expected_greedy = score_logits(head(hidden), labels)
    torch.testing.assert_close(logprob, expected_logprob)
    assert torch.equal(greedy, expected_greedy)
    assert sum(rows) == 20 and max(rows) <= chunk_tokens
