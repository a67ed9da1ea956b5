"""A fault planted in a checkpoint changes what the report says of it.

The bundled model reads 4,096 tokens under YaRN without any training; a checkpoint that has lost the factor
does not. Plain, it keeps the quality of its window; one with half the base does not. (Under YaRN half the
base is another extension, and reads on: weights that were not trained with it do not mind.)
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from demo.corpus import MODEL, read_documents
from nemo_pi.cli.evaluate import run

YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 512,
}
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
FURTHER, COST = "Does it read further than before?", "What did it cost within the old window?"


def checkpoint(folder: Path, rope: dict[str, Any]) -> Path:
    """The bundled model's weights, its positions made by `rope`."""
    folder.mkdir()
    for file in MODEL.iterdir():
        if file.name != "config.json":
            (folder / file.name).symlink_to(file)
    config = json.loads((MODEL / "config.json").read_text())
    config.pop("rope_theta", None)
    config |= {"rope_parameters": rope, "max_position_embeddings": 4096}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Question → model → the word of the answer, as report.html says them."""
    folder = tmp_path_factory.mktemp("faults")
    models = [
        MODEL,
        checkpoint(folder / "extended", YARN),
        checkpoint(folder / "factor-dropped", PLAIN),
        checkpoint(folder / "copy", PLAIN),
        checkpoint(folder / "base-halved", {**PLAIN, "rope_theta": 5000.0}),
    ]
    heldout = folder / "heldout.jsonl"
    (text,) = (document.text for document in read_documents("heldout") if document.title == "Persuasion")
    heldout.write_text(json.dumps({"text": text[:24_000]}) + "\n")
    run(
        arguments=[
            *map(str, models),
            f"documents={heldout}",
            "original_window=512",
            "target_window=2048",
            "tasks=[perplexity]",
            "tasks.perplexity.max_tokens=2048",
            "tasks.perplexity.stride=512",
            f"results={folder / 'results'}",
        ]
    )
    page = (folder / "results" / "report.html").read_text(encoding="utf-8")
    table = re.search(r'<table class="glance".*?</table>', page, re.DOTALL)
    assert table is not None
    head, *rows = re.findall(r"<tr>(.*?)</tr>", table[0], re.DOTALL)
    names = re.findall(r'<th scope="col">([^<]+)', head)[1:]
    words = {}
    for row in rows:
        question = re.search(r"<a [^>]*>(.*?)</a>", row)
        assert question is not None
        found = re.findall(r'class="chip \w+"><span[^>]*>[^<]*</span>([^<]+)<', row)
        words[question[1]] = dict(zip(names, found, strict=True))
    return words


def test_a_dropped_factor_is_seen(answers: dict[str, dict[str, str]]) -> None:
    assert answers[FURTHER]["extended"] == "yes"
    assert answers[FURTHER]["factor-dropped"] == "no" == answers[FURTHER]["model"]


def test_a_halved_base_is_seen(answers: dict[str, dict[str, str]]) -> None:
    assert answers[COST]["copy"] == "kept"
    assert answers[COST]["base-halved"] == "lost"
