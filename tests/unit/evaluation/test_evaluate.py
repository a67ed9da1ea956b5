from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from nemo_pi.errors import ConfigError, DataError
from nemo_pi.evaluation.evaluate import EvaluationSettings, evaluate
from nemo_pi.evaluation.huggingface import HuggingFaceScorer
from nemo_pi.evaluation.passkey import PasskeyPlan, passkey_retrieval
from nemo_pi.evaluation.perplexity import PerplexityPlan, run_plan

DOCUMENTS = [[(7 * i * i + 3 * i + d) % 256 for i in range(700)] for d in range(2)]
SETTINGS = EvaluationSettings(
    original_window=128,
    target_window=512,
    stride=32,
    max_tokens=1100,
    num_passkey_lengths=4,
    passkey_depths=(0.0, 1.0),
    passkey_trials=2,
    seed=5,
)


def test_the_row_holds_both_measurements(scorer: HuggingFaceScorer, byte_tokenizer: Any) -> None:
    calls = []
    row = evaluate(scorer, DOCUMENTS, byte_tokenizer, SETTINGS, progress=lambda *call: calls.append(call))
    text_plan = PerplexityPlan.build(DOCUMENTS, [128, 256, 512], stride=32, max_tokens=1100)
    perplexity = run_plan(scorer, text_plan)
    # Of 128, 256, 384 and 512 tokens only the last two hold a passkey document of bytes.
    plan = PasskeyPlan((384, 512), (0.0, 1.0), 2, seed=5)
    assert (row.name, row.original_window, row.target_window) == ("tiny-llama", 128, 512)
    assert row.perplexity == perplexity.by_length
    assert row.passkey == passkey_retrieval(scorer, byte_tokenizer, plan)
    assert row.k_max == row.passkey.k_max() == 0
    assert row.protocol == {"perplexity": perplexity.protocol, "passkey": plan.protocol}
    totals = {total for _, _, total in calls}
    done = [done for _, done, _ in calls]
    assert len(totals) == 1 and done[0] == 0 and done[-1] == totals.pop() and done == sorted(done)


def test_either_part_can_be_left_out(scorer: HuggingFaceScorer, byte_tokenizer: Any) -> None:
    small = {"original_window": 64, "target_window": 64, "name": "given", "stride": 16, "max_tokens": 100}
    row = evaluate(scorer, DOCUMENTS, byte_tokenizer, EvaluationSettings(**small, measure_passkey=False))
    assert row.name == "given" and list(row.perplexity) == [64]
    assert row.passkey is None and row.k_max is None and list(row.protocol) == ["perplexity"]
    keys = {"passkey_lengths": (400,), "passkey_trials": 1, "measure_perplexity": False}
    row = evaluate(scorer, [], byte_tokenizer, EvaluationSettings(**{**small, "target_window": 400}, **keys))
    assert row.perplexity == {} and row.passkey is not None and row.passkey.lengths == (400,)


def test_bos_is_added_only_when_asked_for(scorer: HuggingFaceScorer, byte_tokenizer: Any) -> None:
    small = {
        "original_window": 400,
        "target_window": 400,
        "stride": 64,
        "max_tokens": 400,
        "passkey_trials": 1,
    }
    plain = evaluate(scorer, DOCUMENTS, byte_tokenizer, EvaluationSettings(**small))
    with_bos = evaluate(scorer, DOCUMENTS, byte_tokenizer, EvaluationSettings(**small, add_bos=True))
    assert plain.protocol["perplexity"]["bos_id"] is None and plain.protocol["passkey"]["bos"] is False
    assert with_bos.protocol["perplexity"]["bos_id"] == 256 and with_bos.protocol["passkey"]["bos"] is True
    assert plain.perplexity[400] != with_bos.perplexity[400]


def test_bad_documents_and_passkeys_are_refused_before_anything_is_computed(
    scorer: HuggingFaceScorer, byte_tokenizer: Any
) -> None:
    calls: list[Any] = []
    for documents in ([], [[]], [[1] * 512], [DOCUMENTS[0], [1] * 100]):
        with pytest.raises(DataError, match="documents"):
            evaluate(scorer, documents, byte_tokenizer, SETTINGS, progress=lambda *call: calls.append(call))
    for changes in ({"passkey_lengths": (50, 512)}, {"passkey_depths": (0.5, 1.5)}):
        with pytest.raises((DataError, ConfigError), match=r"^passkey length|^depth"):
            evaluate(
                scorer,
                DOCUMENTS,
                byte_tokenizer,
                dataclasses.replace(SETTINGS, **changes),
                progress=lambda *call: calls.append(call),
            )
    assert calls == []


def test_bos_needs_a_tokenizer_that_has_one(scorer: HuggingFaceScorer) -> None:
    class Bare:
        bos_id = None

        def encode(self, text: str) -> list[int]:
            return list(text.encode())

    with pytest.raises(ConfigError, match="add_bos"):
        evaluate(scorer, DOCUMENTS, Bare(), EvaluationSettings(128, 512, add_bos=True))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"target_window": 64}, "target_window"),
        ({"original_window": 0}, "original_window"),
        ({"lengths": (128, 1024)}, "lengths"),
        ({"lengths": (1,)}, "lengths"),
        ({"passkey_lengths": (513,)}, "passkey_lengths"),
        ({"num_passkey_lengths": 0}, "num_passkey_lengths"),
        ({"batch_tokens": 0}, "batch_tokens"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=f"^{field}"):
        EvaluationSettings(**{"original_window": 128, "target_window": 512, **changes})


def test_a_window_without_room_for_any_passkey_document_says_so(
    scorer: HuggingFaceScorer, byte_tokenizer: Any
) -> None:
    with pytest.raises(ConfigError, match="passkey"):
        evaluate(scorer, DOCUMENTS, byte_tokenizer, EvaluationSettings(64, 128, stride=16, max_tokens=200))
