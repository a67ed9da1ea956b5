from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from nemo_pi.errors import DataError
from nemo_pi.evaluation.huggingface import HuggingFaceScorer
from nemo_pi.evaluation.passkey import passkey_retrieval, retrieves
from nemo_pi.evaluation.passkey_plan import PasskeyPlan
from nemo_pi.evaluation.passkey_text import PasskeyDocument
from nemo_pi.evaluation.scorer import TokenScores


class Reader:
    """A model over bytes that looks the passkey up in the last `reach` tokens, or else answers zeros."""

    name = "reader"

    def __init__(self, reach: int) -> None:
        self.reach, self.batches = reach, []

    def score(
        self, tokens_BS: torch.Tensor, labels_BS: torch.Tensor, position_ids_BS: torch.Tensor
    ) -> TokenScores:
        assert torch.equal(position_ids_BS, torch.arange(tokens_BS.shape[1]).expand_as(tokens_BS))
        assert torch.equal(tokens_BS[:, 1:], labels_BS[:, :-1])
        self.batches.append(tuple(tokens_BS.shape))
        is_greedy_BS = torch.ones_like(labels_BS, dtype=torch.bool)
        for tokens, labels, is_greedy in zip(tokens_BS, labels_BS, is_greedy_BS, strict=True):
            prompt = bytes(
                tokens[:-5].tolist()
            ).decode()  # " 12345" is six labels; five of them are inputs too
            found = re.search(r"(\d{5}) is the pass key", prompt[-self.reach :])
            answer = torch.tensor(list(f" {found.group(1) if found else '00000'}".encode()))
            is_greedy[-6:] = labels[-6:] == answer
            is_greedy[:-6] = False  # what comes before the answer must not count
        return TokenScores(torch.zeros(labels_BS.shape), is_greedy_BS)


def test_a_model_that_sees_everything_retrieves_everything(byte_tokenizer: Any) -> None:
    plan = PasskeyPlan(lengths=(800, 400), depths=(1.0, 0.0), num_trials=3, seed=0)
    grid = passkey_retrieval(Reader(10_000), byte_tokenizer, plan)
    assert grid.lengths == (400, 800) and grid.depths == (0.0, 1.0)
    assert grid.successes == ((3, 3), (3, 3))
    assert grid.k_max() == 800


def test_a_short_sighted_model_retrieves_what_it_sees(byte_tokenizer: Any) -> None:
    plan = PasskeyPlan(lengths=(400, 600, 800, 1200), depths=(0.0, 0.5, 1.0), num_trials=4, seed=0)
    grid = passkey_retrieval(Reader(500), byte_tokenizer, plan)
    assert grid.successes == ((4, 4, 4), (4, 4, 4), (0, 4, 4), (0, 0, 4))
    assert grid.k_max() == 600  # though at 800 and 1200 more than 20% of all trials succeed
    assert grid.rate(1200) == pytest.approx(1 / 3)


def test_documents_of_one_length_share_batches(byte_tokenizer: Any) -> None:
    reader = Reader(10_000)
    plan = PasskeyPlan(lengths=(400, 1000), depths=(0.0, 0.5, 1.0), num_trials=3, seed=0)
    calls = []
    passkey_retrieval(
        reader, byte_tokenizer, plan, batch_tokens=1600, progress=lambda *call: calls.append(call)
    )
    assert reader.batches == [(4, 399), (4, 399), (1, 399)] + [(1, 999)] * 9
    assert calls[0][1:] == (0, plan.num_tokens) and calls[-1][1:] == (plan.num_tokens, plan.num_tokens)
    assert plan.num_tokens == 9 * 1400


def test_every_trial_has_a_key_of_its_own(byte_tokenizer: Any) -> None:
    plan = PasskeyPlan(lengths=(400,), depths=(0.0, 0.5, 1.0), num_trials=5, seed=0)
    documents = list(plan.documents(byte_tokenizer, 400))
    assert len({document.key for _, document in documents}) == 15
    assert [document.depth for _, document in documents] == [0.0] * 5 + [0.5] * 5 + [1.0] * 5


def answered(prompt: list[int], answer: list[int]) -> PasskeyDocument:
    return PasskeyDocument("", (*prompt, *answer), len(answer), "", 0.0)


def test_greedy_under_teacher_forcing_is_what_generate_does(
    llama: LlamaForCausalLM, scorer: HuggingFaceScorer
) -> None:
    torch.manual_seed(0)
    documents, expected = [], []
    for i in range(24):
        prompt, num_answer = torch.randint(288, (30,)).tolist(), 5
        decoded = llama.generate(torch.tensor([prompt]), max_new_tokens=num_answer, do_sample=False)[
            0, 30:
        ].tolist()
        answer = list(decoded)
        if i % 2:  # another token at the first, the second, … the last place
            answer[i // 2 % 5] = (answer[i // 2 % 5] + 1) % 288
        documents.append(answered(prompt, answer))
        expected.append(answer == decoded)
    assert sum(expected) == 12
    assert retrieves(scorer, documents) == expected


@pytest.mark.parametrize("num_answer", [1, 2, 5])
def test_every_answer_token_counts_and_no_other(num_answer: int) -> None:
    class Flags:
        name = "flags"

        def score(
            self, tokens_BS: torch.Tensor, labels_BS: torch.Tensor, position_ids_BS: torch.Tensor
        ) -> TokenScores:
            # Label 1 is not the greedy choice, label 0 is.
            return TokenScores(torch.zeros(labels_BS.shape), labels_BS == 0)

    # Eight documents of eight tokens, each with its only wrong token at another place.
    documents = [
        answered(ids[:-num_answer], ids[-num_answer:]) for ids in torch.eye(8, dtype=torch.int64).tolist()
    ]
    assert retrieves(Flags(), documents) == [place < 8 - num_answer for place in range(8)]


def test_the_protocol_is_named() -> None:
    plan = PasskeyPlan(lengths=(400,), depths=(0.25, 0.0), num_trials=5, seed=3)
    protocol = plan.protocol
    assert "≥ 20% of the trials at depth 0 succeed" in protocol.pop("summary")
    assert protocol == {
        "name": "passkey",
        "lengths": [400],
        "depths": [0.0, 0.25],
        "num_trials": 5,
        "seed": 3,
        "bos": False,
    }


def test_a_length_too_short_is_refused(byte_tokenizer: Any) -> None:
    with pytest.raises(DataError, match="passkey length"):
        passkey_retrieval(Reader(9), byte_tokenizer, PasskeyPlan((50,), (0.0,), 1, seed=0))
