from __future__ import annotations

import math
from typing import Any, ClassVar

import pytest
import torch
from transformers import LlamaForCausalLM

from nemo_pi.errors import ConfigError
from nemo_pi.evaluation.huggingface import HuggingFaceScorer
from nemo_pi.evaluation.perplexity import PerplexityResult, run_plan
from nemo_pi.evaluation.perplexity_plan import PerplexityPlan
from nemo_pi.evaluation.scorer import Scorer, TokenScores
from nemo_pi.evaluation.windows import FULL_CONTEXT, WHOLE_DOCUMENT

DOCUMENTS = [[(7 * i * i + 3 * i + d) % 288 for i in range(size)] for d, size in enumerate((75, 41, 60))]


def perplexity(
    scorer: Scorer,
    documents: list[list[int]],
    lengths: list[int],
    *,
    batch_tokens: int = 8192,
    progress: Any = None,
    **plan: Any,
) -> PerplexityResult:
    """Planned and measured in one go."""
    planned = PerplexityPlan.build(documents, lengths, **plan)
    return run_plan(scorer, planned, batch_tokens=batch_tokens, progress=progress)


class Unigram:
    """A model without context: token t has probability 2^-(t+1)."""

    name = "unigram"

    def score(
        self, tokens_BS: torch.Tensor, labels_BS: torch.Tensor, position_ids_BS: torch.Tensor
    ) -> TokenScores:
        assert torch.equal(position_ids_BS, torch.arange(tokens_BS.shape[1]).expand_as(tokens_BS))
        return TokenScores(-(labels_BS + 1) * math.log(2), labels_BS == 0)


def naive_nll(model: LlamaForCausalLM, context: list[int], label: int) -> float:
    """One label, one forward pass over just its context, positions from 0, float64 softmax."""
    with torch.no_grad():
        logits = model(torch.tensor([context])).logits[0, -1]
    return -float(logits.double().log_softmax(-1)[label])


def naive_perplexity(model: LlamaForCausalLM, length: int, stride: int, scored: str, longest: int) -> float:
    """A loop over single labels. A label's window is the first of 0, stride, 2 stride, … that holds it."""
    losses = []
    for document in DOCUMENTS:
        n = len(document)
        first = 1 if scored == WHOLE_DOCUMENT else longest + 1 - stride
        for t in range(first, n):
            if scored == WHOLE_DOCUMENT and t <= length:
                begin = 0
            else:
                anchor = length if scored == WHOLE_DOCUMENT else first - 1
                steps = math.ceil((t - anchor) / stride)
                begin = min(anchor + steps * stride, n - 1) - length
            losses.append(naive_nll(model, document[begin:t], document[t]))
    return math.exp(sum(losses) / len(losses))


@pytest.mark.parametrize("scored", [WHOLE_DOCUMENT, FULL_CONTEXT])
@pytest.mark.parametrize("batch_tokens", [1, 100])
def test_equals_a_loop_over_single_tokens(
    llama: LlamaForCausalLM, scorer: HuggingFaceScorer, scored: str, batch_tokens: int
) -> None:
    result = perplexity(scorer, DOCUMENTS, [16, 40], stride=6, scored=scored, batch_tokens=batch_tokens)
    for length in (16, 40):
        expected = naive_perplexity(llama, length, 6, scored, 40)
        assert result.by_length[length] == pytest.approx(expected, rel=1e-5)
    assert result.by_length[16] != pytest.approx(result.by_length[40], rel=1e-3)  # so the lengths do matter


def test_the_mean_is_over_tokens_and_the_tokens_are_the_same_at_every_length() -> None:
    documents = [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9] * 3, [2] * 17]
    result = perplexity(Unigram(), documents, [4, 8, 16], stride=3)
    labels = [token for document in documents for token in document[1:]]
    expected = 2 ** (sum(labels) / len(labels) + 1)
    assert result.num_scored == len(labels)
    assert list(result.by_length.values()) == pytest.approx([expected] * 3, rel=1e-6)


def test_bos_begins_every_window_and_the_first_token_is_scored_too() -> None:
    seen = []

    class Recorder(Unigram):
        def score(
            self, tokens_BS: torch.Tensor, labels_BS: torch.Tensor, position_ids_BS: torch.Tensor
        ) -> TokenScores:
            seen.extend(zip(tokens_BS.tolist(), labels_BS.tolist(), strict=True))
            return super().score(tokens_BS, labels_BS, position_ids_BS)

    result = perplexity(Recorder(), [[1, 2, 3, 4, 5, 6]], [4], stride=2, bos_id=9)
    assert seen == [([9, 1, 2, 3], [1, 2, 3, 4]), ([9, 3, 4, 5], [3, 4, 5, 6])]
    assert result.by_length[4] == pytest.approx(2 ** (21 / 6 + 1), rel=1e-6)
    assert result.protocol["bos_id"] == 9


def test_the_protocol_is_named() -> None:
    result = perplexity(Unigram(), [[1] * 40, [2] * 50], [8], stride=4, max_tokens=30)
    assert result.num_scored == 30
    assert "30 tokens of 2 documents" in result.protocol.pop("summary")
    other = perplexity(Unigram(), [[1] * 40, [3] * 50], [8], stride=4, max_tokens=30)
    assert other.protocol["tokens_sha256"] != result.protocol.pop("tokens_sha256"), "other ids, as many"
    assert result.protocol == {
        "name": "sliding window",
        "stride_tokens": 4,
        "scored": WHOLE_DOCUMENT,
        "num_documents": 2,
        "num_scored_tokens": 30,
        "bos_id": None,
    }


def test_progress_counts_the_tokens_that_are_read() -> None:
    calls = []
    perplexity(
        Unigram(), [[1] * 40], [8, 4], stride=4, batch_tokens=16, progress=lambda *call: calls.append(call)
    )
    plan = PerplexityPlan.build([[1] * 40], [8, 4], stride=4)
    assert calls[0] == ("perplexity", 0, plan.num_tokens) and calls[-1][1:] == (
        plan.num_tokens,
        plan.num_tokens,
    )
    # 39 labels: windows of 4 tokens score 4 each, ten in all; of 8 tokens, 8 and then 4 each, nine in all.
    assert plan.num_tokens == 10 * 4 + 9 * 8
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)


@pytest.mark.parametrize(("batch_tokens", "rows"), [(1, 1), (11, 1), (12, 2), (18, 3)])
def test_windows_are_read_as_many_at_once_as_tokens_allow(batch_tokens: int, rows: int) -> None:
    class Recorder(Unigram):
        rows: ClassVar[list[int]] = []

        def score(self, tokens_BS: torch.Tensor, *rest: torch.Tensor) -> TokenScores:
            self.rows.append(tokens_BS.size(0))
            return super().score(tokens_BS, *rest)

    recorder = Recorder()
    recorder.rows.clear()
    perplexity(recorder, [[1] * 40], [6], stride=6, batch_tokens=batch_tokens)
    assert max(recorder.rows) == rows


@pytest.mark.parametrize(
    ("logprob", "expected"), [(-1e4, math.inf), (-math.inf, math.inf), (math.nan, math.nan), (0.0, 1.0)]
)
def test_extreme_log_probabilities(logprob: float, expected: float) -> None:
    class Constant(Unigram):
        def score(
            self, tokens_BS: torch.Tensor, labels_BS: torch.Tensor, position_ids_BS: torch.Tensor
        ) -> TokenScores:
            return TokenScores(torch.full(labels_BS.shape, logprob), labels_BS == 0)

    result = perplexity(Constant(), [[1] * 20], [8], stride=4)
    assert result.by_length[8] == pytest.approx(expected, nan_ok=True)


def test_scores_outside_the_span_do_not_leak_in() -> None:
    class BadContext(Unigram):
        def score(
            self, tokens_BS: torch.Tensor, labels_BS: torch.Tensor, position_ids_BS: torch.Tensor
        ) -> TokenScores:
            scores = super().score(tokens_BS, labels_BS, position_ids_BS).logprob_BS.clone()
            scores[:, 0] = torch.nan
            return TokenScores(scores, labels_BS == 0)

    result = perplexity(BadContext(), [[1] * 20], [8], stride=4, scored=FULL_CONTEXT)
    assert result.by_length[8] == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"lengths": []}, "lengths"),
        ({"lengths": [1]}, "lengths"),
        ({"stride": 0}, "stride"),
        ({"stride": 9}, "stride"),
        ({"scored": "all"}, "scored"),
        ({"max_tokens": 3}, "max_tokens"),
    ],
)
def test_bad_arguments_are_refused(changes: dict[str, object], field: str) -> None:
    arguments: dict[str, object] = {"lengths": [8, 16], "stride": 4, **changes}
    with pytest.raises(ConfigError, match=f"^{field}"):
        perplexity(Unigram(), [[1] * 40], **arguments)  # type: ignore[arg-type]


def test_several_tokens_may_begin_every_window() -> None:
    """GLM's tokenizer begins a text with two. Neither is scored, and every token of the text is, once."""
    seen = []

    class Recorder(Unigram):
        def score(
            self, tokens_BS: torch.Tensor, labels_BS: torch.Tensor, position_ids_BS: torch.Tensor
        ) -> TokenScores:
            seen.extend(zip(tokens_BS.tolist(), labels_BS.tolist(), strict=True))
            return super().score(tokens_BS, labels_BS, position_ids_BS)

    result = perplexity(Recorder(), [[1, 2, 3, 4, 5, 6]], [4], stride=2, bos_id=(8, 9))
    assert seen == [([8, 9, 1, 2], [9, 1, 2, 3]), ([8, 9, 3, 4], [2, 3, 4, 5]), ([8, 9, 4, 5], [3, 4, 5, 6])]
    assert result.by_length[4] == pytest.approx(2 ** (21 / 6 + 1), rel=1e-6)
    assert (result.protocol["bos_id"], result.num_scored) == ([8, 9], 6)
    assert "2 beginning-of-text tokens before every window" in result.protocol["summary"]
    with pytest.raises(
        ConfigError,
        match=r"^stride: required from 1 to the shortest length, 4 tokens less 1.*stride to 3, or",
    ):
        perplexity(Recorder(), [[1, 2, 3, 4, 5, 6]], [4], stride=4, bos_id=(8, 9))
