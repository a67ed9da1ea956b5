"""A bare sentencepiece model's tokenizer.json: the same ids as sentencepiece itself, through transformers."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import sentencepiece
from transformers import AutoTokenizer

from nemo_pi.checkpoint.hf.sentencepiece_json import write_tokenizer_json
from nemo_pi.checkpoint.hf.tokenizer import copy_tokenizer, special_token_ids
from nemo_pi.errors import CheckpointError

CORPUS = "the grass is green and the sky is blue . one two three 0 1 2 3 4 5 6 7 8 9 hello world again "
TEXTS = (
    "the sky is blue",
    "Hello  world 42",  # two spaces, of which this kind keeps one
    " \u00fcnseen \u03a9 \ufb01ne \uff11\uff12",  # normalised, and characters that it has never seen
    "",
    "a\nb\tc",
    "the grass is green " * 30,
    "\u65e5\u672c\u8a9e text",
    "x" * 30,
)


def trained(folder: Path, kind: str, **options: object) -> Path:
    (folder / "text").write_text("\n".join([CORPUS, CORPUS.upper(), CORPUS.title()] * 40))
    settings = {"vocab_size": 200, "hard_vocab_limit": False, "minloglevel": 2, "character_coverage": 1.0}
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"), model_prefix=str(folder / "mine"), model_type=kind, **settings | options
    )
    return folder / "mine.model"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"byte_fallback": True, "vocab_size": 420},
        {"normalization_rule_name": "identity", "remove_extra_whitespaces": False},
        {"add_dummy_prefix": False, "user_defined_symbols": ["<sep>"]},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_transformers_reads_the_same_ids(kind: str, options: dict, tmp_path: Path) -> None:
    model = trained(tmp_path, kind, **options)
    (tmp_path / "out").mkdir()
    write_tokenizer_json(model, tmp_path / "out")
    ours = AutoTokenizer.from_pretrained(tmp_path / "out")
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(model))
    for text in TEXTS:
        assert ours(text)["input_ids"] == theirs.encode(text), text
    for text in TEXTS[:2]:
        assert ours.decode(theirs.encode(text)) == theirs.decode(theirs.encode(text))
    assert (ours.bos_token_id, ours.eos_token_id, ours.unk_token_id) == (1, 2, 0)


def test_a_model_by_itself_leaves_with_what_it_takes_to_read_it(tmp_path: Path) -> None:
    """As NeMo's keys give it: a file of any name, in a folder of other things."""
    model = trained(tmp_path, "unigram")
    (tmp_path / "out").mkdir()
    copy_tokenizer(model, tmp_path / "out", max_length=4096)
    ours = AutoTokenizer.from_pretrained(tmp_path / "out")
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(model))
    assert ours("Hello  world")["input_ids"] == theirs.encode("Hello  world")
    assert ours.model_max_length == 4096
    assert special_token_ids(tmp_path / "out") == {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": None,
    }
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == model.read_bytes()


def test_a_folder_that_says_how_to_read_its_model_is_left_alone(tmp_path: Path) -> None:
    trained(tmp_path, "bpe").rename(tmp_path / "tokenizer.model")
    said = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    (tmp_path / "out").mkdir()
    copy_tokenizer(tmp_path / "tokenizer.model", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "tokenizer.model",
        "tokenizer_config.json",
    ]
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text()) == said


def test_what_cannot_be_said_is_named_and_stops_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = trained(tmp_path, "word")
    with pytest.raises(CheckpointError, match="a model of words or characters"):
        write_tokenizer_json(words, tmp_path)
    for content in (b"", b"nothing of the kind"):
        (tmp_path / "other.model").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"other\.model: required a sentencepiece model"):
            write_tokenizer_json(tmp_path / "other.model", tmp_path)
    (tmp_path / "out").mkdir()
    with caplog.at_level(logging.WARNING):
        copy_tokenizer(words, tmp_path / "out")
    assert "travels as it is" in caplog.text
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tokenizer.model"]
