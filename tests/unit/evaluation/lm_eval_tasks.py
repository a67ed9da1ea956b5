"""Tasks for lm-eval that need no network, one for each way in which it asks a model."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
doc_to_text: "{{{{text}}}}"
output_type: {kind}
"""
MORE = {
    "ours_choice": (
        "multiple_choice",
        'doc_to_choice: "{{choices}}"\ndoc_to_target: label\n'
        "metric_list: [{metric: acc}, {metric: acc_norm}]\n",
    ),
    # A mean that has no formula for its error.
    "ours_next": (
        "loglikelihood",
        'doc_to_target: "{{choices[label]}}"\n'
        "metric_list: [{metric: perplexity, higher_is_better: false}, {metric: acc}]\n"
        "process_results: !function own.rated\n",
    ),
    "ours_rolling": (
        "loglikelihood_rolling",
        'doc_to_text: ""\ndoc_to_target: "{{text}}"\nmetric_list: [{metric: word_perplexity}]\n',
    ),
    "ours_generate": (
        "generate_until",
        'doc_to_target: " the"\nmetric_list: [{metric: exact_match}]\n'
        'generation_kwargs: {until: ["."], max_gen_toks: 12, do_sample: false}\n'
        "process_results: !function own.letters\n",
    ),
}
# A mean that broken models lose beyond its error; and a number for whatever was written, so that no two texts
# score alike.
OWN = """
def rated(doc, results):
    ((logprob, greedy),) = results
    return {'perplexity': logprob, 'acc': float(greedy), 'logprob': logprob}

def letters(doc, results):
    return {'exact_match': float(sum(map(ord, results[0])) % 997)}
"""


def write_tasks(folder: Path, begin: str = "", questions: int = 12) -> Path:
    """Write the tasks, on passages of the held-out text, and return the folder.

    Args:
        folder: made if need be.
        begin: what every other passage begins with.
        questions: passages.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with lzma.open(ROOT / "demo" / "text" / "heldout.jsonl.xz", "rt", encoding="utf-8") as file:
        text = json.loads(file.readline())["text"]
    lines = []
    for number in range(questions):
        start = 800 * number
        end = text.index(" ", start + 300 + start // 10)
        after = text[end : text.index(" ", end + 12)]
        choices = [after, " " + after[:0:-1], " " + after[:0:-1].upper()]
        label = number % 3
        choices[0], choices[label] = choices[label], choices[0]
        passage = begin * (number % 2) + text[start:end]
        lines.append(json.dumps({"text": passage, "choices": choices, "label": label}))
    (folder / "data.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "own.py").write_text(OWN, encoding="utf-8")
    for name, (kind, more) in MORE.items():
        head = TASK.format(name=name, kind=kind, data=folder / "data.jsonl")
        head = head.replace('doc_to_text: "{{text}}"\n', "") if "doc_to_text" in more else head
        (folder / f"{name}.yaml").write_text(head + more, encoding="utf-8")
    return folder
