"""RULER: prompts of the wanted length with their answers in them, worded and scored as lm-eval's."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nemo_pi.config.merge import from_mapping
from nemo_pi.data.tokenizer import build_tokenizer
from nemo_pi.errors import BackendUnavailableError, ConfigError, DataError
from nemo_pi.evaluation.charts import HeatMap, LineChart
from nemo_pi.evaluation.gates import compared
from nemo_pi.evaluation.huggingface import HuggingFaceScorer
from nemo_pi.evaluation.prompts import answered, samples
from nemo_pi.evaluation.results import ModelResults
from nemo_pi.evaluation.ruler.niah import FILLER, NEEDLE
from nemo_pi.evaluation.ruler.questions import read_questions
from nemo_pi.evaluation.ruler.result import RulerResult
from nemo_pi.evaluation.ruler.sample import Sample, fitted
from nemo_pi.evaluation.ruler.subtasks import OF_PROSE, OF_QUESTIONS, SUBTASKS, Material, words_of
from nemo_pi.evaluation.ruler.tracking import VariableTracking
from nemo_pi.evaluation.ruler.words import COMMON
from nemo_pi.evaluation.tasks.base import Measured, TaskContext
from nemo_pi.evaluation.tasks.ruler import Ruler
from nemo_pi.evaluation.text_tables import MISSING

BUNDLED = Path(__file__).resolve().parents[4] / "demo" / "model"
_TEXT = (
    "In the beginning the sea was calm. Nobody had sailed it yet! Who would? A ship needs wind, and the "
    "wind needs somebody to blow for. So they waited."
)
PROSE = _TEXT.split() * 40
BOUND = {"effective_length": 8192}
QUESTIONS = [
    {
        "question": f"What is number {i}?",
        "answers": [f"answer{i}", f"reply{i}"],
        "paragraphs": [f"Paragraph {i}."],
    }
    for i in range(30)
]
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@pytest.fixture(scope="module")
def tokenizer() -> object:
    return build_tokenizer("huggingface", str(BUNDLED))


@pytest.fixture
def material(tmp_path: Path) -> Material:
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, QUESTIONS)) + "\n\n", encoding="utf-8")
    return Material(PROSE, dict.fromkeys(OF_QUESTIONS, read_questions(path)))


def sample_of(name: str, material: Material, size: int | None = None, length: int = 4096) -> Sample:
    maker = SUBTASKS[name](material, length)
    return maker.make(random.Random(name), maker.least + 60 if size is None else size, 3)


@pytest.mark.parametrize("length", [2048, 4096])
@pytest.mark.parametrize("name", SUBTASKS)
def test_prompt_and_answer_fill_the_length(
    name: str, length: int, material: Material, tokenizer: object
) -> None:
    maker = SUBTASKS[name](material, length)
    encode: Callable[[str], list[int]] = tokenizer.encode  # type: ignore[attr-defined]
    count: Callable[[str], int] = lambda text: len(encode(text))  # noqa: E731
    sample, size = fitted(maker, encode, length - maker.new_tokens, f"{name} 1", 0)
    tokens = count(sample.prompt) + maker.new_tokens
    # There are thirty paragraphs only.
    assert tokens <= length and (tokens >= 0.94 * length or (name in OF_QUESTIONS and size == 30))
    assert list(sample.token_ids) == encode(sample.prompt)
    assert fitted(maker, encode, length - maker.new_tokens, f"{name} 1", 0) == (sample, size)
    other, _ = fitted(maker, encode, length - maker.new_tokens, f"{name} 2", 1, size)
    assert other.prompt != sample.prompt and count(other.prompt) + maker.new_tokens <= length
    with pytest.raises(DataError, match="shortest prompt"):
        fitted(maker, encode, 20, f"{name} 1", 0)


@pytest.mark.parametrize("name", [name for name in SUBTASKS if name.startswith("niah")])
def test_needles_hold_the_answers(name: str, material: Material) -> None:
    sample = sample_of(name, material)
    needles = re.findall(r"One of the special magic (\w+) for (\S+) is: (\S+)\.", sample.prompt)
    asked = (
        sample.prompt.rsplit("text?", 1)[0].rsplit(" for ", 1)[1].removesuffix(" mentioned in the provided ")
    )
    keys = re.split(r", and |, ", asked)
    assert Counter(sample.answers) == Counter(value for _, key, value in needles if key in keys)
    several = name in ("niah_multivalue", "niah_multiquery")
    assert len(sample.answers) == (4 if several else 1)
    assert all(
        UUID.fullmatch(a) if name.endswith("_3") else re.fullmatch(r"\d{7}", a) for a in sample.answers
    )
    ours = {"niah_multikey_1": 4, "niah_multiquery": 4, "niah_multivalue": 4}.get(name, 1)
    assert len(needles) == (ours if "multikey_" not in name or name.endswith("_1") else 1 + 61)
    ending = "provided text are" if several else "provided text is"
    assert sample.prompt.endswith(ending)


def test_a_chain_gives_one_value_to_all_its_variables(material: Material) -> None:
    question = sample_of("vt", material).prompt.rsplit("Memorize and track", 1)[1]
    answers = sample_of("vt", material).answers
    chain = re.findall(r"VAR (\w+) = (?:VAR )?(\w+)", question)
    assert [name for name, _ in chain] == list(answers) and len(answers) == 5
    assert [value for _, value in chain[1:]] == list(answers[:-1])
    assert f"assgined the value {chain[0][1]}, they are:" in question


def test_a_chain_is_as_long_as_asked_for() -> None:
    asked = VariableTracking(hops=2)
    sample = asked.make(random.Random(1), asked.least, 0)
    assert len(sample.answers) == 3 and "3 variables are" in sample.prompt


def test_the_solved_example_is_shorter_and_has_names_of_its_own_length(material: Material) -> None:
    """Fifteen sentences and three letters, where the authors fill 500 tokens; five letters in the task."""
    example, question = sample_of("vt", material).prompt.split("Memorize and track")[1:]
    assert example.count(FILLER) == 15 < question.count(FILLER)
    for text, letters in ((example, 3), (question, 5)):
        assert {len(name) for name in re.findall(r"VAR ([A-Z]+) =", text)} == {letters}


@pytest.mark.parametrize("end", [min, max])
def test_numbers_have_seven_digits_at_both_ends(end: Callable[[int, int], int], material: Material) -> None:
    class AtTheEnd(random.Random):
        def randint(self, a: int, b: int) -> int:
            return end(a, b)

    sample = SUBTASKS["niah_single_1"](material, 4096).make(AtTheEnd(1), 10, 0)
    assert [len(answer) for answer in sample.answers] == [7]


def test_the_words_that_are_asked_for_are_the_most_common_ones(material: Material) -> None:
    common = sample_of("cwe", material)
    shown = re.findall(r"\d+\. (\S+)", common.prompt.rsplit("Below is", 1)[1])
    counts = Counter(shown)
    assert {word for word, _ in counts.most_common(10)} == set(common.answers)
    assert set(counts.values()) == {30, 3} and len(counts) == 11 + 60
    short = Counter(
        re.findall(r"\d+\. (\S+)", sample_of("cwe", material, length=2048).prompt.rsplit("Below", 1)[1])
    )
    assert set(short.values()) == {6, 1}
    frequent = sample_of("fwe", material, size=2000)
    coded = frequent.prompt.partition("coded words. ")[2].partition("\nQuestion")[0].split()
    assert [word for word, _ in Counter(coded).most_common(4)] == ["...", *frequent.answers]
    # Zipf's law with exponent 2 (arXiv 2404.06654, §3.3), counts rounded down.
    assert [count for _, count in Counter(coded).most_common(4)] == [1215, 303, 135, 75]


def test_questions_are_answered_by_a_paragraph_among_others(material: Material) -> None:
    sample = sample_of("qa_1", material, size=10)
    assert sample.answers == ("answer3", "reply3") and "Paragraph 3." in sample.prompt
    assert len(set(re.findall(r"Document (\d+):", sample.prompt))) == 11
    assert sample.prompt.endswith("Question: What is number 3? Answer:")
    maker = SUBTASKS["qa_2"](material, 4096)
    assert maker.score("It is REPLY3.", sample.answers) == 1 and maker.score("no", sample.answers) == 0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[", "Expecting"),
        ('{"question": "a"}', "answers"),
        ('{"question": "a", "answers": [], "paragraphs": ["b"]}', "empty"),
        ('{"question": "a", "answers": "b", "paragraphs": ["b"]}', "lists"),
        ('{"question": 1, "answers": ["b"], "paragraphs": ["b"]}', "strings"),
    ],
)
def test_wrong_questions_are_named(line: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps(QUESTIONS[0]) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=f"jsonl:2: .*{said}"):
        read_questions(path)
    with pytest.raises(DataError, match="a file of questions"):
        read_questions(tmp_path / "none.jsonl")


def test_each_file_of_questions_has_a_subtask_of_its_own(tokenizer: object, tmp_path: Path) -> None:
    """Both count in the mean; `qa`, as it was called when there was one, stands for those that are given."""
    files = []
    for name in ("squad", "hotpotqa"):
        rows = [{**row, "paragraphs": [f"{name} {row['paragraphs'][0]}"]} for row in QUESTIONS]
        files.append(tmp_path / f"{name}.jsonl")
        files[-1].write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    squad, hotpotqa = map(str, files)
    context = TaskContext(tokenizer, [], 512, 2048)  # type: ignore[arg-type]

    def asked(questions: object, *subtasks: str) -> dict[str, Any]:
        given = {"questions": questions, "lengths": [2048], "samples": 1}
        task = from_mapping(Ruler, {**given, "subtasks": list(subtasks)} if subtasks else given)
        return task.plan(context).work.makers[2048]

    for questions, names in (
        (squad, ["qa_1"]),
        ([squad], ["qa_1"]),
        ([squad, hotpotqa], ["qa_1", "qa_2"]),
        ([None, hotpotqa], ["qa_2"]),
    ):
        assert list(asked(questions, "qa")) == names == list(asked(questions, *names))
        assert {name for name in asked(questions) if name.startswith("qa")} == set(names)
    for name, maker in asked([squad, hotpotqa], "qa").items():
        prompt = maker.make(random.Random(1), 5, 0).prompt
        assert prompt.count({"qa_1": "squad", "qa_2": "hotpotqa"}[name]) == 6 == prompt.count("Document ")
    for wrong in ([], [None], [squad, hotpotqa, squad]):
        with pytest.raises(ConfigError, match=r"^questions: required one file or two"):
            asked(wrong)


def test_what_was_averaged_is_said_beside_every_mean() -> None:
    """The bar is for thirteen subtasks, as RULER has them."""
    assert len(SUBTASKS) == 13
    without = [name for name in SUBTASKS if name not in OF_QUESTIONS]
    for names, words in (
        (list(SUBTASKS), "all 13 of RULER's subtasks"),
        (without, "11 of RULER's 13 subtasks (without qa_1, qa_2)"),
        (["vt", "fwe"], "2 of RULER's 13 subtasks (vt, fwe)"),
        ([*without, "qa"], f"12 of RULER's 13 subtasks ({', '.join(without)}, qa)"),
    ):
        result = RulerResult({}, {n: dict.fromkeys(names, 0.9) for n in (8192, 16384)}, 9, 8192)
        (verdict,) = Ruler.verdicts(measured(result))
        chart = verdict.charts[0]
        assert verdict.findings[0] is not None and isinstance(chart, LineChart)
        (_, gate), *_ = compared(ModelResults("", 8192, 32768, {"ruler": result}), BOUND, [Ruler()])
        for text in (Ruler.table(measured(result)).title, verdict.findings[0].text, chart.summary, gate):
            assert f"mean of {words}" in text
    different = [*measured(result), *measured(result_of({8192: 0.5}))]
    assert "; model: mean of 2 of" in Ruler.table([different[0], different[1]]).title


def skeleton(prompt: str, answers: list[str]) -> str:
    """A prompt's own words: haystacks, drawn words and numbers taken out."""
    for answer in sorted(answers, key=len, reverse=True):
        prompt = re.sub(rf"\b{re.escape(answer)}\b", "ANSWER", prompt)
    prompt = re.sub(r"VAR \w+ = (VAR )?\w+ ?", "", prompt)
    prompt = " ".join(prompt.split()).replace(FILLER, "")
    prompt = re.sub(r"for [A-Za-z]+-[^\s:?]+", "for KEY", UUID.sub("NUMBER", prompt))
    prompt = re.sub(r"\d+\. [\w-]+", "WORD", re.sub(r"\d{5,7}", "NUMBER", prompt))
    prompt = re.sub(r"(WORD ?)+", "WORDS ", re.sub(r"(?<=they are: )([A-Z]{3,6} ?)+", "NAMES ", prompt))
    prompt = re.sub(
        r"(One of the special magic \w+ for (KEY|NUMBER) is: (ANSWER|NUMBER)\.\s*)+", "NEEDLES ", prompt
    )
    return " ".join(prompt.split())


def test_prompts_are_worded_as_lm_eval_s(
    monkeypatch: pytest.MonkeyPatch, tokenizer: object, material: Material
) -> None:
    """Whole prompts side by side, without what is drawn: templates, examples, the answer's beginning."""
    nltk = pytest.importorskip("nltk", reason="lm-eval's RULER needs it: pip install -e '.[dev]'")
    pytest.importorskip("lm_eval", reason="compares with lm-eval: pip install -e '.[dev]'")
    monkeypatch.setattr(nltk, "download", lambda *args, **kwargs: False)  # it would reach for the network
    # Theirs lists every pair of adjective and noun, ten million, when it is imported: a few words will do.
    few = {
        # A word of the template, as an answer, would be blanked there, too.
        part: [word for word in words_of(part) if word.isalpha() and word not in COMMON.split()][:200]
        for part in ("noun", "adjective", "verb")
    }
    words_of("noun", "adjective", "verb")  # ours are read while the package is itself
    few |= {f"{part}s": chosen for part, chosen in few.items()}
    monkeypatch.setattr("wonderwords.RandomWord", lambda: SimpleNamespace(_categories=few))
    from lm_eval.tasks.ruler import cwe_utils, niah_utils, prepare_niah, vt_utils
    from transformers import AutoTokenizer

    hf = AutoTokenizer.from_pretrained(BUNDLED)
    theirs: dict[str, dict[str, object]] = {
        name: prepare_niah.generate_samples(
            prepare_niah.get_haystack(hay), hf, max_seq_length=2048, template=niah_utils.TEMPLATE,
            type_haystack=hay, type_needle_k=key, type_needle_v=value, num_samples=1,
        )[0]
        for name, hay, key, value in (
            ("niah_single_1", "repeat", "words", "numbers"),
            ("niah_multikey_2", "needle", "words", "numbers"),
            ("niah_multikey_3", "needle", "uuids", "uuids"),
        )
    }  # fmt: skip
    track = vt_utils.sys_vartrack_w_noise_random
    example = track(hf, 1, 500, incremental=5)[0]
    theirs["vt"] = track(hf, 1, 2048, icl_example=example)[0]
    theirs["cwe"] = cwe_utils.sys_word_pair_random(1, 2048, hf)[0]
    for name, sample in theirs.items():
        before = f"{sample['input_example']}\n" if "input_example" in sample else ""
        prompt = f"{before}{sample['input']} {sample['gen_prefix']}"
        ours = sample_of(name, material, length=2048)
        assert skeleton(ours.prompt, list(ours.answers)) == skeleton(prompt, list(sample["outputs"])), name  # type: ignore[call-overload]


def test_answers_are_scored_as_lm_eval_scores_them(material: Material) -> None:
    pytest.importorskip("lm_eval", reason="compares with lm-eval: pip install -e '.[dev]'")
    from lm_eval.tasks.ruler.common_utils import string_match_all, string_match_part

    answers = ("4711", "Blue-Bird", "x")
    for text in ("", "4711", "blue-bird 4711", "nothing of it", "4711, blue-bird and X"):
        maker = SUBTASKS["vt"](material, 4096)
        assert maker.score(text, answers) == pytest.approx(string_match_all([text], [list(answers)]))
        # lm-eval gives a part of the answers' worth where one suffices; the authors give all of it.
        assert (SUBTASKS["qa_2"](material, 4096).score(text, answers) > 0) == (
            string_match_part([text], [list(answers)]) > 0
        )


def test_the_bundled_model_s_scores_are_those_of_transformers(tokenizer: object) -> None:
    """Greedy answers by transformers itself, scored here."""
    import torch
    from transformers import AutoModelForCausalLM

    context = TaskContext(tokenizer, [], 512, 1024)  # type: ignore[arg-type]
    task = Ruler(lengths=(512,), subtasks=("fwe",), samples=2, seed=1)
    plan = task.plan(context)
    calls: list[tuple[int, int]] = []
    scorer = HuggingFaceScorer(BUNDLED, device="cpu")
    result = task.run(scorer, plan, lambda what, done, total: calls.append((done, total)))
    assert calls[-1] == (plan.cost.tokens, plan.cost.tokens) == (1024, 1024)
    model = AutoModelForCausalLM.from_pretrained(BUNDLED)
    maker, total = plan.work.makers[512]["fwe"], 0.0
    for sample in samples(context, maker, 512, task._key("fwe", 512), 2):
        prompt = torch.tensor([tokenizer.encode(sample.prompt)])  # type: ignore[attr-defined]
        new = model.generate(prompt, max_new_tokens=50, do_sample=False, pad_token_id=0)[0, prompt.size(1) :]
        total += maker.score(tokenizer.decode(new.tolist()), sample.answers)  # type: ignore[attr-defined]
    assert result.scores == {512: {"fwe": total / 2}}


class Counting:
    """A tokenizer that knows how often it was asked."""

    def __init__(self, own: Any) -> None:
        self.own, self.encoded, self.decoded = own, 0, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)

    def encode(self, text: str) -> list[int]:
        self.encoded += 1
        return list(self.own.encode(text))

    def decode(self, ids: Any) -> str:
        self.decoded += 1
        return str(self.own.decode(ids))


def test_prompts_are_encoded_no_more_than_to_fit_them_and_prose_is_read_where_it_hides_something(
    tokenizer: object,
) -> None:
    counting = Counting(tokenizer)
    context = TaskContext(counting, [list(range(3, 600))], 512, 1024)  # type: ignore[arg-type]
    maker = Ruler(lengths=(1024,), subtasks=("fwe",), samples=1).plan(context).work.makers[1024]["fwe"]
    assert counting.decoded == 0
    made = list(samples(context, maker, 1024, "key", 1))
    before = counting.encoded
    answered(HuggingFaceScorer(BUNDLED, device="cpu"), context, maker, made)
    assert counting.encoded == before
    before = counting.decoded
    Ruler(lengths=(1024,), samples=1).plan(context)
    assert counting.decoded == before + 1


def result_of(means: dict[int, float], samples: int = 500, window: int = 4096) -> RulerResult:
    return RulerResult(
        {}, {length: {"vt": mean, "fwe": mean} for length, mean in means.items()}, samples, window
    )


def test_the_effective_length_is_the_longest_up_to_which_all_pass() -> None:
    result = result_of({4096: 0.95, 8192: 0.856, 16384: 0.82, 32768: 0.9})
    assert result.effective_length() == 8192 and result.mean(8192) == pytest.approx(85.6)
    assert result.relative_length() == 32768  # 85% of 95 is 80.75
    assert result_of({4096: 0.5, 8192: 0.43, 16384: 0.42}).relative_length() == 8192
    assert result_of({4096: 0.5}).effective_length() == 0
    assert result_of({4096: 0.0, 8192: 0.9}).relative_length() == 0
    assert RulerResult.from_json(json.loads(json.dumps(result.to_json()))) == result


def measured(result: RulerResult, target: int = 32768) -> list[Measured[RulerResult]]:
    return [Measured("model", result.original_window, target, result)]


def test_a_relative_length_that_was_not_measured_is_unknown_everywhere() -> None:
    """Not 0, which would say that the model keeps nothing of what it could."""
    result = result_of({16384: 0.5, 32768: 0.4}, window=8192)
    assert result.relative_length() is None and result.to_json()["relative_length"] is None
    assert "relative_length" not in result.scalars()
    written = json.loads(json.dumps(result.to_json()))
    # Results written when it was 0 are read as what they are.
    assert RulerResult.from_json(written | {"relative_length": 0}) == result == RulerResult.from_json(written)
    assert Ruler.table(measured(result)).lines[0][-2:] == ("0", MISSING)
    (verdict,) = Ruler.verdicts(measured(result))
    assert verdict.findings[0] is not None and verdict.findings[0].answer == "unknown"
    text = verdict.findings[0].text
    assert "relative –;" in text and "no length within the original window (8,192 tokens) was" in text
    assert "tasks.ruler.lengths=[8192,16384,32768]" in text
    assert isinstance(verdict.charts[1], HeatMap) and verdict.charts[1].panels[0].note.endswith("– tokens")


@pytest.mark.parametrize(
    ("means", "answer"),
    [
        ({16384: 0.9, 32768: 0.4}, "partly"),  # by the effective length alone
        ({16384: 0.9, 32768: 0.9}, "yes"),
        ({8192: 0.5, 32768: 0.4}, "no"),
        ({8192: 0.5, 32768: 0.45}, "partly"),
        ({8192: 0.0, 32768: 0.0}, "no"),
    ],
)
def test_the_verdict_needs_the_relative_length_only_where_it_decides(
    means: dict[int, float], answer: str
) -> None:
    (verdict,) = Ruler.verdicts(measured(result_of(means, window=8192)))
    assert verdict.findings[0] is not None and verdict.findings[0].answer == answer
    assert "unknown" not in verdict.findings[0].text


def test_the_verdict_names_what_did_not_fit_into_the_original_window(tokenizer: object) -> None:
    """And what it says to give measures the relative length."""
    context = TaskContext(tokenizer, [], 512, 1024)  # type: ignore[arg-type]
    plan = Ruler(subtasks=("vt", "fwe"), samples=1).plan(context)
    result = RulerResult(plan.protocol, {1024: {"vt": 0.5, "fwe": 0.5}}, 1, 512)
    (verdict,) = Ruler.verdicts(measured(result, 1024))
    assert verdict.findings[0] is not None
    text = verdict.findings[0].text
    assert "(512 tokens) was measured; vt does not fit into it: give tasks.ruler.subtasks=[fwe]" in text
    assert list(Ruler(subtasks=("fwe",), samples=1).plan(context).work.makers) == [512, 1024]


def test_few_samples_leave_a_wide_interval() -> None:
    """Agresti and Coull's interval of one subtask, 9 of 10: around 11/14."""
    one = RulerResult({}, {4096: {"vt": 0.9}}, 10, 4096)
    assert one.half_interval(4096) == pytest.approx(100 * 1.96 * (11 / 14 * 3 / 14 / 14) ** 0.5)
    assert (
        result_of({4096: 1.0}, samples=5).half_interval(4096) > 5 > result_of({4096: 1.0}).half_interval(4096)
    )


def test_what_cannot_be_is_refused(tokenizer: object, tmp_path: Path) -> None:
    context = TaskContext(tokenizer, [], 512, 2048)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="niah_single_1"):
        Ruler(subtasks=("niah_single1",))
    with pytest.raises(ConfigError, match="samples"):
        Ruler(samples=0)
    for field in ("lengths", "subtasks"):
        with pytest.raises(ConfigError, match=field):
            Ruler(**{field: ()})
    for name, wanted in (
        ("niah_multivalue", "documents=FILE"),
        ("qa", "tasks.ruler.questions=FILE"),
        ("qa_1", "tasks.ruler.questions=FILE"),
        ("qa_2", r"tasks.ruler.questions=\[FILE,FILE\]"),
    ):
        with pytest.raises(ConfigError, match=f"give {wanted}, or"):
            Ruler(subtasks=(name,)).plan(context)
    with pytest.raises(DataError, match="lengths"):
        Ruler(lengths=(128,), subtasks=("vt",)).plan(context)
    # Without lengths, those that hold every subtask are taken.
    plan = Ruler(subtasks=("vt", "fwe"), samples=1).plan(context)
    assert list(plan.work.makers) == [1024, 2048]
    everything = Ruler(samples=1).plan(context).protocol["subtasks"]
    assert set(everything) == set(SUBTASKS) - set(OF_PROSE) - set(OF_QUESTIONS)


def test_without_wonderwords_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    words_of.cache_clear()
    monkeypatch.setitem(sys.modules, "wonderwords", None)
    with pytest.raises(BackendUnavailableError, match="pip install wonderwords"):
        SUBTASKS["niah_single_1"](Material(), 4096)


def test_a_needle_is_worded_as_the_authors_word_it() -> None:
    assert (
        NEEDLE.format(kind="numbers", key="a-b", value="7")
        == "One of the special magic numbers for a-b is: 7."
    )
