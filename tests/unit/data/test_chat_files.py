"""Conversations from JSON lines to packed rows: what is written, what is learned, what is left out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nemo_pi.cli.preprocess import main
from nemo_pi.data.datasets import build_datasets, check_datasets
from nemo_pi.data.indexed import has_scored, open_indexed, scored_prefix
from nemo_pi.data.preprocess import PreprocessConfig, PreprocessResult, preprocess
from nemo_pi.errors import ConfigError, DataError, NemoPiError
from tests.unit.data.chats import TWO_TURNS, save_tokenizer, write_lines

LONG = [TWO_TURNS[0], {"role": "assistant", "content": "The whale. " * 60}]
RECORDS: list[Any] = [
    {"messages": TWO_TURNS},
    {"messages": TWO_TURNS[:1]},
    {"messages": LONG},
    {"input_ids": [5, 6, 7, 8], "labels": [-100, 6, -100, 8]},
    {"conversations": [{"from": "human", "value": "Aye?"}, {"from": "gpt", "value": "Aye."}]},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("chat")
    save_tokenizer(made / "tokenizer")
    write_lines(made / "chats.jsonl", RECORDS)
    return made


def written(folder: Path, name: str, **changes: Any) -> PreprocessResult:
    tokenizer = {"library": "huggingface", "model": str(folder / "tokenizer")}
    chosen = {"input": str(folder / "chats.jsonl"), "tokenizer": tokenizer, "chat": True, **changes}
    return preprocess(PreprocessConfig(output_prefix=str(folder / name), **chosen))


@pytest.mark.parametrize("workers", [1, 2])
def test_tokens_and_what_is_learned_lie_side_by_side(folder: Path, workers: int) -> None:
    result = written(folder, f"w{workers}", max_tokens=100, workers=workers)
    (prefix,) = result.prefixes
    assert prefix == str(folder / f"w{workers}_chat_document") and has_scored(prefix)
    assert (result.num_documents, result.num_too_long, result.num_unanswered) == (3, 1, 1)
    tokens, scored = open_indexed(prefix), open_indexed(scored_prefix(prefix))
    assert tokens[1].tolist() == [5, 6, 7, 8] and scored[1].tolist() == [0, 1, 0, 1]
    assert np.array_equal(tokens.sequence_lengths, scored.sequence_lengths)
    assert result.num_tokens == int(tokens.sequence_lengths.sum())
    assert result.num_scored == sum(int(scored[i].sum()) for i in range(3))
    assert scored.index.dtype == np.uint8


def test_the_command_line_says_what_was_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--tokenizer-library", "huggingface", "--tokenizer-model", str(folder / "tokenizer")]
    places = ["--input", str(folder / "chats.jsonl"), "--output-prefix", str(folder / "cli")]
    assert main([*places, *flags, "--chat", "--max-tokens", "100"]) == 0
    assert "left out: 1 longer than allowed, 1 without an answer" in capsys.readouterr().out


def rows(prefix: str, seq_length: int, **data: Any) -> Any:
    settings = {"data_prefix": [prefix], "splits_string": "1,0,0", "pack_documents": True, **data}
    return build_datasets(
        settings, seq_length=seq_length, vocab_size=3000, seed=1, num_samples=(8, 0, 0), eod_id=0
    )[0]


def test_rows_learn_answers_alone_and_hold_no_piece_of_a_long_conversation(folder: Path) -> None:
    prefix = written(folder, "rows").prefixes[0]
    tokens, scored = open_indexed(prefix), open_indexed(scored_prefix(prefix))
    # Every scored (input, label) pair of the conversations that fit.
    expected = []
    for number in (0, 2, 3):
        ids, marks = tokens[number].tolist(), scored[number].tolist()
        expected += [(a, b) for a, b, learned in zip(ids, ids[1:], marks[1:], strict=False) if learned]
    dataset, found = rows(prefix, 100), []
    for index in range(dataset.parts[0].samples_per_epoch):
        sample = dataset[index]
        pairs = zip(sample["tokens"].tolist(), sample["labels"].tolist(), strict=True)
        found += [pair for pair, learned in zip(pairs, sample["loss_mask"], strict=True) if learned]
    assert sorted(found) == sorted(expected)


def test_all_of_the_text_is_learned_where_that_is_asked_for(folder: Path) -> None:
    prefix = written(folder, "all").prefixes[0]
    dataset = rows(prefix, 1000, answer_only_loss=False)
    assert dataset[0]["loss_mask"].sum() == sum(len(open_indexed(prefix)[i]) - 1 for i in range(4))


def test_plain_text_beside_conversations_is_learned_whole(folder: Path) -> None:
    chat = written(folder, "mixed").prefixes[0]
    write_lines(folder / "plain.jsonl", [{"text": "Call me Ishmael. " * 5}])
    plain = written(folder, "plain", input=str(folder / "plain.jsonl"), chat=False).prefixes[0]
    dataset = rows(chat, 200, data_prefix=[0.5, chat, 0.5, plain])
    learned, whole = (part.sample(0)["loss_mask"].sum() for part in dataset.parts)
    assert 0 < learned < whole == len(open_indexed(plain)[0]) - 1


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        ({"pack_documents": False}, ConfigError, r"model\.data\.pack_documents: required true"),
        ({"data_prefix": ["PLAIN"], "answer_only_loss": True}, DataError, r"no such files.*=null"),
    ],
)
def test_settings_that_do_not_go_together(
    folder: Path, data: dict[str, Any], error: type[NemoPiError], said: str
) -> None:
    prefix = written(folder, "refused", overwrite=True).prefixes[0]
    write_lines(folder / "some.jsonl", [{"text": "Call me Ishmael."}])
    some = str(folder / "some.jsonl")
    plain = written(folder, "some", input=some, chat=False, overwrite=True).prefixes[0]
    data = {**data, "data_prefix": [plain]} if "data_prefix" in data else data
    with pytest.raises(error, match=said):
        rows(prefix, 100, **data)
    fixed = {**data, "pack_documents": True, "answer_only_loss": None}
    assert rows(prefix, 100, **fixed) is not None


def test_marks_of_another_corpus_are_refused(folder: Path, tmp_path: Path) -> None:
    prefix = written(folder, "first").prefixes[0]
    other = written(folder, "second", max_tokens=100).prefixes[0]
    for suffix in (".idx", ".bin"):
        Path(scored_prefix(prefix) + suffix).write_bytes(Path(scored_prefix(other) + suffix).read_bytes())
    with pytest.raises(DataError, match="as many tokens in each conversation"):
        check_datasets(
            {"data_prefix": [prefix], "splits_string": "1,0,0", "pack_documents": True},
            seq_length=64,
            vocab_size=None,
            seed=1,
            num_samples=(1, 0, 0),
        )


def test_nothing_that_fits_is_refused(folder: Path) -> None:
    write_lines(folder / "long.jsonl", [{"messages": LONG}])
    prefix = written(folder, "long", input=str(folder / "long.jsonl")).prefixes[0]
    with pytest.raises(DataError, match="of at most 65 tokens in each split") as caught:
        rows(prefix, 64)
    fix = re.search(r"encoder_seq_length=(\d+)", str(caught.value))
    assert fix is not None
    assert rows(prefix, int(fix[1])) is not None
    with pytest.raises(DataError):
        rows(prefix, int(fix[1]) - 1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"chat": False, "max_tokens": 100}, "--max-tokens: required 2 or more, with --chat"),
        ({"max_tokens": 1}, "--max-tokens"),
        ({"tokenizer": {"library": "byte"}}, "--chat: required a tokenizer with a chat template"),
    ],
)
def test_flags_that_cannot_be(folder: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        written(folder, "flags", **changes)
    assert not list(folder.glob("flags*"))


def test_a_bad_line_is_named(folder: Path) -> None:
    bad = write_lines(folder / "bad.jsonl", [{"messages": TWO_TURNS}, {"text": "a"}])
    with pytest.raises(DataError, match=r"bad\.jsonl, line 2: required a conversation; given `messages`"):
        written(folder, "bad", input=str(bad))
