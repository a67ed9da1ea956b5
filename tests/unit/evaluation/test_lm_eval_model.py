"""Our scorers behind lm-eval's interface: pairs of any lengths, each as it would be alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval", reason="needs lm-eval: pip install -e '.[dev]'")

from nemo_pi.evaluation.huggingface import HuggingFaceScorer
from nemo_pi.evaluation.lm_eval_model import ScorerModel
from nemo_pi.evaluation.scorer import TokenScores
from nemo_pi.evaluation.tasks.base import TaskContext


class Recorder:
    """A scorer that remembers the shapes of its batches."""

    name = "recorder"

    def __init__(self, own: HuggingFaceScorer) -> None:
        self.own, self.shapes = own, []

    def score(
        self, tokens_BS: torch.Tensor, labels_BS: torch.Tensor, position_ids_BS: torch.Tensor
    ) -> TokenScores:
        self.shapes.append(tuple(tokens_BS.shape))
        return self.own.score(tokens_BS, labels_BS, position_ids_BS)


def test_texts_of_one_length_share_batches_and_score_as_they_do_alone(
    scorer: HuggingFaceScorer, byte_tokenizer: Any
) -> None:
    torch.manual_seed(1)
    sizes = ((9, 3), (4, 8), (20, 5), (5, 7), (11, 1), (30, 9))  # texts of 12, 12, 25, 12, 12 and 39 tokens
    pairs = [
        (None, torch.randint(250, (before,)).tolist(), torch.randint(250, (after,)).tolist())
        for before, after in sizes
    ]
    context = TaskContext(byte_tokenizer, [], 32, 32, batch_tokens=36)
    done: list[int] = []
    recorder = Recorder(scorer)
    together = ScorerModel(recorder, context, done.append)._loglikelihood_tokens(pairs)
    # Three texts of 12 tokens at a time; the last text is cut to the window and one label.
    assert recorder.shapes == [(3, 11), (1, 11), (1, 24), (1, 32)]
    assert done == [33, 11, 24, 32]
    for pair, (logprob, greedy) in zip(pairs, together, strict=True):
        _, before, after = pair
        text = torch.tensor([[*before, *after][-33:]])
        positions = torch.arange(text.size(1) - 1)[None]
        alone = scorer.score(text[:, :-1], text[:, 1:], positions)
        assert logprob == pytest.approx(float(alone.logprob_BS[0, -len(after) :].double().sum()), rel=1e-5)
        assert greedy == bool(alone.is_greedy_BS[0, -len(after) :].all())
