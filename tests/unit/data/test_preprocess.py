"""JSONL to indexed files: against the tokenizer and megatron-core's reading; failures leave nothing."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import pytest
from megatron.core.datasets.indexed_dataset import IndexedDataset

from nemo_pi.data.preprocess import PreprocessConfig, preprocess
from nemo_pi.errors import ConfigError, DataError

TEXTS = ["alpha", "", "béta ☃", "c" * 300, "line\nline"] * 20


def write(path: Path, texts: list[str]) -> None:
    path.write_text("".join(json.dumps({"text": text, "title": text[:2]}) + "\n" for text in texts))


def config(tmp_path: Path, **changes: object) -> PreprocessConfig:
    return PreprocessConfig(
        **{"input": str(tmp_path / "in.jsonl"), "output_prefix": str(tmp_path / "out"), **changes}
    )  # type: ignore[arg-type]


def read(prefix: str) -> list[list[int]]:
    indexed = IndexedDataset(prefix)
    assert indexed.document_indices.tolist() == list(range(len(indexed) + 1))
    return [indexed[i].tolist() for i in range(len(indexed))]


@pytest.mark.parametrize("workers", [1, 2])
def test_output_is_the_encoded_text_in_order(tmp_path: Path, workers: int) -> None:
    write(tmp_path / "in.jsonl", TEXTS)
    result = preprocess(config(tmp_path, append_eod=True, workers=workers))
    expected = [[*text.encode(), 256] for text in TEXTS if text]
    assert result.prefixes == [str(tmp_path / "out_text_document")]
    assert read(result.prefixes[0]) == expected
    assert (result.num_documents, result.num_empty) == (80, 20)
    assert result.num_tokens == sum(map(len, expected))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "in.jsonl",
        "out_text_document.bin",
        "out_text_document.idx",
    ]


def test_folder_of_plain_and_packed_files(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "b.jsonl", ["b"])
    write(tmp_path / "in" / "a.jsonl", ["a"])
    packed = tmp_path / "in" / "a.jsonl"
    packed.with_suffix(".jsonl.gz").write_bytes(gzip.compress(packed.read_bytes()))
    result = preprocess(config(tmp_path, input=str(tmp_path / "in")))
    assert read(result.prefixes[0]) == [[97], [97], [98]]


def test_one_pair_per_key(tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", ["alpha", "beta"])
    result = preprocess(config(tmp_path, json_keys=("text", "title")))
    assert [Path(prefix).name for prefix in result.prefixes] == ["out_text_document", "out_title_document"]
    assert read(result.prefixes[1]) == [list(b"al"), list(b"be")]
    assert (result.num_documents, result.num_tokens) == (2, 13)


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_line_names_its_place_and_leaves_nothing(tmp_path: Path, workers: int) -> None:
    write(tmp_path / "in.jsonl", TEXTS)
    with open(tmp_path / "in.jsonl", "a") as stream:
        stream.write('{"text": \n')
    with pytest.raises(DataError, match=r"in\.jsonl, line 101"):
        preprocess(config(tmp_path, workers=workers))
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_existing_output_is_kept_unless_told_and_when_the_run_fails(tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", ["old"])
    prefix = preprocess(config(tmp_path)).prefixes[0]
    write(tmp_path / "in.jsonl", ["new"])
    with pytest.raises(DataError, match="--overwrite"):
        preprocess(config(tmp_path))
    assert read(prefix) == [list(b"old")]
    preprocess(config(tmp_path, overwrite=True))
    assert read(prefix) == [list(b"new")]
    (tmp_path / "in.jsonl").write_text('{"text": "a"}\nnonsense\n')
    with pytest.raises(DataError, match="line 2"):
        preprocess(config(tmp_path, overwrite=True))
    assert read(prefix) == [list(b"new")]


def test_second_key_that_exists_stops_the_first(tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", ["old"])
    preprocess(config(tmp_path, json_keys=("title",)))
    with pytest.raises(DataError, match="--overwrite"):
        preprocess(config(tmp_path, json_keys=("text", "title")))
    assert not list(tmp_path.glob("out_text*"))


def test_nothing_but_empty_texts_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", ["", ""])
    with pytest.raises(DataError, match="some text"):
        preprocess(config(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_append_eod_needs_such_an_id(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    write(tmp_path / "in.jsonl", ["a"])
    Tokenizer(WordLevel({"a": 0, "?": 1}, unk_token="?")).save(str(tmp_path / "tokenizer.json"))
    tokenizer = {"library": "huggingface", "model": str(tmp_path / "tokenizer.json")}
    with pytest.raises(ConfigError, match="--append-eod"):
        preprocess(config(tmp_path, tokenizer=tokenizer, append_eod=True))
    assert read(preprocess(config(tmp_path, tokenizer=tokenizer)).prefixes[0]) == [[0]]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"workers": 0}, "--workers"),
        ({"json_keys": ()}, "--json-keys"),
        ({"json_keys": ("a", "a")}, "--json-keys"),
    ],
)
def test_bad_flags_are_refused(tmp_path: Path, changes: dict[str, object], field: str) -> None:
    write(tmp_path / "in.jsonl", ["a"])
    with pytest.raises(ConfigError, match=field):
        preprocess(config(tmp_path, **changes))


def test_progress_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "in.jsonl", TEXTS)
    with caplog.at_level(logging.INFO, logger="nemo_pi.data.preprocess"):
        preprocess(config(tmp_path, log_interval=30))
    lines = [record.getMessage() for record in caplog.records if record.name == "nemo_pi.data.preprocess"]
    assert [line.split()[0] for line in lines] == ["30", "60"]
