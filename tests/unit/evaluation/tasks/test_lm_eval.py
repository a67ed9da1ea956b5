"""lm-eval's tasks on our scorer give what its own Hugging Face backend gives on the same folder."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest

from nemo_pi.data.tokenizer import build_tokenizer
from nemo_pi.errors import BackendUnavailableError, ConfigError, DataError
from nemo_pi.evaluation.huggingface import HuggingFaceScorer
from nemo_pi.evaluation.tasks.base import Measured, TaskContext
from nemo_pi.evaluation.tasks.lm_eval import LmEval, LmEvalResult

pytest.importorskip("lm_eval", reason="needs lm-eval: pip install -e '.[dev]'")
ROOT = Path(__file__).resolve().parents[4]
BUNDLED = ROOT / "demo" / "model"
CHOICE = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: {kind}
"""
KINDS = {
    "ours_choice": "multiple_choice",
    "ours_rolling": "loglikelihood_rolling",
    "ours_generate": "generate_until",
}
MORE = {
    "ours_choice": 'doc_to_text: "{{text}}"\ndoc_to_choice: ["the sea", "a whale", "12345"]\n'
    "doc_to_target: 1\n"
    "metric_list: [{metric: acc}, {metric: acc_norm}]\n",
    "ours_rolling": 'doc_to_text: ""\ndoc_to_target: "{{text}}"\nmetric_list: [{metric: word_perplexity}]\n',
    "ours_generate": 'doc_to_text: "{{text}}"\ndoc_to_target: " the"\nmetric_list: [{metric: exact_match}]\n'
    'generation_kwargs: {until: ["."], max_gen_toks: 12, do_sample: false}\n'
    "process_results: !function own.lengths\n",
}
OWN = "def lengths(doc, results):\n    return {'exact_match': float(sum(map(ord, results[0])) % 997)}\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tasks on passages of the held-out text: choices, whole texts, and continuations."""
    made = tmp_path_factory.mktemp("tasks")
    with lzma.open(ROOT / "demo" / "text" / "heldout.jsonl.xz", "rt", encoding="utf-8") as file:
        text = json.loads(file.readline())["text"]
    lines = [json.dumps({"text": text[start : start + 300 + start // 10]}) for start in range(0, 6000, 1000)]
    (made / "data.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (made / "own.py").write_text(OWN, encoding="utf-8")
    for name, kind in KINDS.items():
        content = CHOICE.format(name=name, kind=kind, data=made / "data.jsonl") + MORE[name]
        (made / f"{name}.yaml").write_text(content, encoding="utf-8")
    return made


def test_equals_the_hugging_face_backend(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    window = 200  # longer texts are cut or rolled
    context = TaskContext(build_tokenizer("huggingface", str(BUNDLED)), [], 128, window, batch_tokens=500)
    task = LmEval(tasks=tuple(KINDS), include_path=str(folder))
    result = task.run(HuggingFaceScorer(BUNDLED, device="cpu"), task.plan(context), lambda *_: None)
    theirs = simple_evaluate(
        model=HFLM(pretrained=str(BUNDLED), device="cpu", dtype="float32", max_length=window, batch_size=1),
        tasks=list(KINDS),
        task_manager=TaskManager(include_path=str(folder)),
        bootstrap_iters=0,
        log_samples=False,
    )["results"]
    for name in KINDS:
        compared = {key: value for key, value in result.metrics[name].items() if value is not None}
        wanted = {
            key: value
            for key, value in theirs[name].items()
            if isinstance(value, float) and "stderr" not in key
        }
        assert wanted and {key: compared[key] for key in wanted} == pytest.approx(wanted, rel=1e-4), name
    table = LmEval.table([Measured("bundled", 128, window, result), Measured("none", 128, window, None)])
    assert "ours_rolling word_perplexity" in table.header and set(table.lines[1][1:]) == {"–"}
    assert result.protocol["summary"].startswith("tasks ours_"), "a report puts the title before it"
    assert LmEvalResult.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_what_cannot_be_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = TaskContext(build_tokenizer("huggingface", str(BUNDLED)), [], 128, 256)
    with pytest.raises(ConfigError, match=r"^tasks: required names .*; given no_such_task"):
        LmEval(tasks=("no_such_task",)).plan(context)
    with pytest.raises(DataError, match="include_path"):
        LmEval(tasks=("lambada",), include_path=str(folder / "none")).plan(context)
    for wrong in ({}, {"tasks": ("a",), "limit": 0}, {"tasks": ("a",), "num_fewshot": -1}):
        with pytest.raises(ConfigError):
            LmEval(**wrong)  # type: ignore[arg-type]
    monkeypatch.setattr("nemo_pi.evaluation.tasks.lm_eval.find_spec", lambda name: None)
    with pytest.raises(BackendUnavailableError, match="pip install 'lm-eval"):
        LmEval(tasks=("lambada",)).plan(context)
