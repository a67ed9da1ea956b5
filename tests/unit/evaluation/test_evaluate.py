from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import pytest

from nemo_pi.errors import ConfigError, DataError
from nemo_pi.evaluation.evaluate import evaluate
from nemo_pi.evaluation.generation import GenerationRequest
from nemo_pi.evaluation.huggingface import HuggingFaceScorer
from nemo_pi.evaluation.passkey import passkey_retrieval
from nemo_pi.evaluation.passkey_plan import PasskeyPlan
from nemo_pi.evaluation.passkey_result import PasskeyResult
from nemo_pi.evaluation.perplexity import PerplexityResult, run_plan
from nemo_pi.evaluation.perplexity_plan import PerplexityPlan
from nemo_pi.evaluation.results import ModelResults
from nemo_pi.evaluation.scorer import Scorer
from nemo_pi.evaluation.tasks.base import Cost, Measured, Plan, Progress, Task, TaskContext, TaskResult
from nemo_pi.evaluation.tasks.passkey import Passkey
from nemo_pi.evaluation.tasks.perplexity import Perplexity
from nemo_pi.evaluation.text_tables import Table
from tests.unit.evaluation.conftest import ByteTokenizer

DOCUMENTS = [[(7 * i * i + 3 * i + d) % 256 for i in range(700)] for d in range(2)]
PERPLEXITY = Perplexity(stride=32, max_tokens=1100)
PASSKEY = Passkey(num_lengths=4, depths=(0.0, 1.0), trials=2, seed=5)


def measure(
    scorer: Scorer,
    tokenizer: Any,
    *tasks: Task[Any, Any],
    windows: tuple[int, int] = (128, 512),
    documents: list[list[int]] = DOCUMENTS,
    add_bos: bool = False,
    **options: Any,
) -> ModelResults:
    return evaluate(scorer, tasks, TaskContext(tokenizer, documents, *windows, add_bos), **options)


def test_the_row_holds_both_measurements(scorer: HuggingFaceScorer, byte_tokenizer: Any) -> None:
    calls = []
    row = measure(scorer, byte_tokenizer, PERPLEXITY, PASSKEY, progress=lambda *call: calls.append(call))
    text_plan = PerplexityPlan.build(DOCUMENTS, [128, 256, 512], stride=32, max_tokens=1100)
    perplexity = run_plan(scorer, text_plan)
    # Of 128, 256, 384 and 512 tokens only the last two hold a passkey document of bytes.
    plan = PasskeyPlan((384, 512), (0.0, 1.0), 2, seed=5)
    passkey = PasskeyResult(plan.protocol, passkey_retrieval(scorer, byte_tokenizer, plan))
    assert (row.name, row.original_window, row.target_window) == ("tiny-llama", 128, 512)
    assert row.tasks == {"perplexity": perplexity, "passkey": passkey}
    assert passkey.k_max == passkey.grid.k_max() == 0
    totals = {total for _, _, total in calls}
    done = [done for _, done, _ in calls]
    assert len(totals) == 1 and done[0] == 0 and done[-1] == totals.pop() and done == sorted(done)


def test_either_part_can_be_left_out(scorer: HuggingFaceScorer, byte_tokenizer: Any) -> None:
    text = Perplexity(stride=16, max_tokens=100)
    row = measure(scorer, byte_tokenizer, text, windows=(64, 64), name="given")
    assert row.name == "given" and list(row.tasks) == ["perplexity"]
    assert isinstance(row.tasks["perplexity"], PerplexityResult)
    assert list(row.tasks["perplexity"].by_length) == [64]
    keys = Passkey(lengths=(400,), trials=1)
    row = measure(scorer, byte_tokenizer, keys, windows=(64, 400), documents=[])
    assert list(row.tasks) == ["passkey"] and isinstance(row.tasks["passkey"], PasskeyResult)
    assert row.tasks["passkey"].grid.lengths == (400,)


def test_bos_is_added_only_when_asked_for(scorer: HuggingFaceScorer, byte_tokenizer: Any) -> None:
    tasks = (Perplexity(stride=64, max_tokens=400), Passkey(trials=1))
    plain = measure(scorer, byte_tokenizer, *tasks, windows=(400, 400)).tasks
    with_bos = measure(scorer, byte_tokenizer, *tasks, windows=(400, 400), add_bos=True).tasks
    assert plain["perplexity"].protocol["bos_id"] is None and plain["passkey"].protocol["bos"] is False
    assert with_bos["perplexity"].protocol["bos_id"] == 256 and with_bos["passkey"].protocol["bos"] is True
    text, text_with_bos = plain["perplexity"], with_bos["perplexity"]
    assert isinstance(text, PerplexityResult) and isinstance(text_with_bos, PerplexityResult)
    assert text.by_length[400] != text_with_bos.by_length[400]


def test_bad_documents_and_passkeys_are_refused_before_anything_is_computed(
    scorer: HuggingFaceScorer, byte_tokenizer: Any
) -> None:
    calls: list[Any] = []
    for documents in ([], [[]], [[1] * 512], [DOCUMENTS[0], [1] * 100]):
        with pytest.raises(DataError, match="documents"):
            measure(
                scorer,
                byte_tokenizer,
                PERPLEXITY,
                PASSKEY,
                documents=documents,
                progress=lambda *call: calls.append(call),
            )
    for changes in ({"lengths": (50, 512)}, {"depths": (0.5, 1.5)}):
        with pytest.raises((DataError, ConfigError), match=r"^lengths: |^depths: "):
            measure(
                scorer,
                byte_tokenizer,
                PERPLEXITY,
                dataclasses.replace(PASSKEY, **changes),
                progress=lambda *call: calls.append(call),
            )
    assert calls == []


def test_bos_needs_a_tokenizer_that_has_one(scorer: HuggingFaceScorer) -> None:
    class Bare:
        bos_id = None

        def encode(self, text: str) -> list[int]:
            return list(text.encode())

    with pytest.raises(ConfigError, match="add_bos"):
        measure(scorer, Bare(), PERPLEXITY, add_bos=True)


@pytest.mark.parametrize(
    ("kind", "changes", "field"),
    [
        (TaskContext, {"target_window": 64}, "target_window"),
        (TaskContext, {"original_window": 0}, "original_window"),
        (Perplexity, {"lengths": (128, 1024)}, "lengths"),
        (Perplexity, {"lengths": (1,)}, "lengths"),
        (Passkey, {"lengths": (513,)}, "lengths"),
        (Passkey, {"num_lengths": 0}, "num_lengths"),
        (TaskContext, {"batch_tokens": 0}, "batch_tokens"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    kind: Any, changes: dict[str, Any], field: str, byte_tokenizer: Any
) -> None:
    windows = {"original_window": 128, "target_window": 512}
    with pytest.raises(ConfigError, match=f"^{field}"):
        if kind is TaskContext:
            TaskContext(byte_tokenizer, DOCUMENTS, **{**windows, **changes})
        else:
            kind(**changes).plan(TaskContext(byte_tokenizer, DOCUMENTS, **windows))


def test_a_window_without_room_for_any_passkey_document_says_so(
    scorer: HuggingFaceScorer, byte_tokenizer: Any
) -> None:
    text = Perplexity(stride=16, max_tokens=200)
    with pytest.raises(ConfigError, match="passkey"):
        measure(scorer, byte_tokenizer, text, Passkey(), windows=(64, 128))


@dataclasses.dataclass(frozen=True)
class GoOn(Task[list[int], TaskResult]):
    """Goes on from a prompt, whatever the window."""

    name = "go_on"
    title = "Go on"
    result_type = TaskResult

    prompt: int = 60
    new: int = 4

    def plan(self, context: TaskContext) -> Plan[list[int]]:
        return Plan([1] * self.prompt, context, Cost(1, self.prompt, self.new), {})

    def run(self, scorer: Scorer, plan: Plan[list[int]], progress: Progress) -> TaskResult:
        texts = scorer.generate([[2], plan.work], GenerationRequest(self.new))
        return TaskResult({"new": [len(text.token_ids) for text in texts]})

    @classmethod
    def table(cls, models: Sequence[Measured[TaskResult]]) -> Table:
        raise NotImplementedError


def test_texts_stay_within_the_target_window(scorer: HuggingFaceScorer, byte_tokenizer: Any) -> None:
    row = measure(scorer, byte_tokenizer, GoOn(), windows=(32, 64), documents=[])
    assert row.tasks["go_on"].protocol == {"new": [4, 4]}
    for task, message in (
        (
            GoOn(new=5),
            r"max_new_tokens: required from 1 to 4: the window of 64 .* 60; given 5.*raise target_",
        ),
        (GoOn(prompt=64), r"prompt: required .* the target window, 64 tokens; given 64 tokens"),
    ):
        with pytest.raises((ConfigError, DataError), match=message):
            measure(scorer, byte_tokenizer, task, windows=(32, 64), documents=[])


class PairsOfDigits(ByteTokenizer):
    """Bytes, but a 1 and the digit after it are one token: some keys take four tokens, others five."""

    def encode(self, text: str) -> list[int]:
        ids, text = [], re.sub(r"1(\d)", lambda found: chr(0x100 + int(found[1])), text)
        for character in text:
            ids.append(ord(character) + 1 if ord(character) > 0xFF else ord(character))
        return ids


def test_answers_of_several_sizes_are_generated_within_the_window(scorer: HuggingFaceScorer) -> None:
    """The longest answer's room is not asked for where a shorter one stands."""
    keys = Passkey(lengths=(400,), depths=(0.0, 1.0), trials=6, seed=5)
    tokenizer, options = PairsOfDigits(), {"windows": (64, 400), "documents": []}
    documents = keys.plan(TaskContext(tokenizer, [], 64, 400)).work.documents(tokenizer, 400)  # type: ignore[arg-type]
    assert len({document.num_answer_tokens for _, document in documents}) > 1
    forced, generated = (
        measure(scorer, tokenizer, dataclasses.replace(keys, generate=how), **options)  # type: ignore[arg-type]
        for how in (False, True)
    )
    assert forced.tasks["passkey"].grid == generated.tasks["passkey"].grid  # type: ignore[attr-defined]
