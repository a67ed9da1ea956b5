"""Tokenizers: equal to the libraries they stand on, and never running a folder's code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemo_pi.data.tokenizer import ByteTokenizer, Tokenizer, build_tokenizer
from nemo_pi.errors import ConfigError, DataError

# No limits on time: a busy machine is no failure.
SLOW_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

TEXT = "The whale, the white whale! It swam; a ship came by, and the sea was calm again. " * 20
SENTENCE = "The white ship swam by the sea, ünseen."


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bpe")
    model = tokenizers.ByteLevelBPETokenizer()
    model.train_from_iterator([TEXT], vocab_size=300, special_tokens=["<s>", "<|endoftext|>"])
    model.save(str(folder / "tokenizer.json"))
    model.save_model(str(folder))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>", "bos_token": "<s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return folder


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pieces")
    (folder / "text").write_text("\n".join(TEXT.split(".")))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"), model_prefix=str(folder / "m"), vocab_size=60, hard_vocab_limit=False
    )
    return folder / "m.model"


def test_huggingface_equals_its_library(bpe: Path) -> None:
    ours = build_tokenizer("huggingface", bpe)
    theirs = tokenizers.Tokenizer.from_file(str(bpe / "tokenizer.json"))
    ids = theirs.encode(SENTENCE, add_special_tokens=False).ids
    assert ours.encode(SENTENCE) == ids and ours.decode(ids) == SENTENCE
    assert ours.vocab_size == theirs.get_vocab_size() and (ours.bos_id, ours.eod_id) == (0, 1)
    assert isinstance(ours, Tokenizer) and str(bpe) in ours.name


def test_huggingface_adds_no_special_tokens(tmp_path: Path, bpe: Path) -> None:
    fast = transformers.AutoTokenizer.from_pretrained(bpe)
    fast.backend_tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    fast.save_pretrained(tmp_path)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path).encode("a")[0] == 0
    assert build_tokenizer("huggingface", tmp_path).encode("a") == build_tokenizer("huggingface", bpe).encode(
        "a"
    )


@pytest.mark.parametrize(
    ("template", "starts"),
    [
        ("$A", ()),
        ("<s> $A", (0,)),
        ("<s> $A <|endoftext|>", (0,)),
        ("<|endoftext|> <s> $A", (1, 0)),
        ("$A <|endoftext|>", ()),
    ],
)
def test_what_the_tokenizer_itself_begins_a_text_with(
    template: str, starts: tuple[int, ...], tmp_path: Path, bpe: Path
) -> None:
    fast = transformers.AutoTokenizer.from_pretrained(bpe)
    fast.backend_tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=template, special_tokens=[("<s>", 0), ("<|endoftext|>", 1)]
    )
    fast.save_pretrained(tmp_path)
    ours = build_tokenizer("huggingface", tmp_path)
    assert ours.start_ids == starts
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)(SENTENCE)["input_ids"]
    assert theirs[: len(starts) + 3] == [*starts, *ours.encode(SENTENCE)][: len(starts) + 3]


def test_other_libraries_begin_a_text_with_nothing(pieces: Path) -> None:
    assert build_tokenizer("sentencepiece", pieces).start_ids == ByteTokenizer().start_ids == ()


def test_added_tokens_count_into_the_vocabulary(tmp_path: Path, bpe: Path) -> None:
    fast = transformers.AutoTokenizer.from_pretrained(bpe)
    size = len(fast)
    fast.add_tokens(["<one>", "<two>"])
    fast.save_pretrained(tmp_path)
    ours = build_tokenizer("huggingface", tmp_path)
    assert ours.vocab_size == size + 2 and ours.encode("<two>") == [size + 1]


def test_tokenizer_file_alone(bpe: Path) -> None:
    ours = build_tokenizer("huggingface", bpe / "tokenizer.json")
    assert ours.encode(SENTENCE) == build_tokenizer("huggingface", bpe).encode(SENTENCE)
    assert ours.eod_id is None


def test_gpt2_files(bpe: Path) -> None:
    ours = build_tokenizer(
        "megatron", type="GPT2BPETokenizer", vocab_file=bpe / "vocab.json", merge_file=bpe / "merges.txt"
    )
    ids = build_tokenizer("huggingface", bpe).encode(SENTENCE)
    assert ours.encode(SENTENCE) == ids and ours.decode(ids) == SENTENCE and ours.eod_id == 1
    assert ours.encode("<|endoftext|>") == [1]


def test_sentencepiece_equals_its_library(pieces: Path) -> None:
    ours = build_tokenizer("sentencepiece", pieces)
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(pieces))
    assert ours.encode(TEXT) == theirs.encode(TEXT) and ours.decode(ours.encode("the ship")) == "the ship"
    assert (ours.vocab_size, ours.eod_id, ours.bos_id) == (theirs.vocab_size(), 2, 1)


@settings(SLOW_MACHINE)
@given(st.text())
def test_bytes_round_trip(text: str) -> None:
    ours = ByteTokenizer()
    ids = ours.encode(text)
    assert ours.decode([*ids, 256]) == text and all(0 <= i < 256 for i in ids)


def test_code_in_the_folder_never_runs(tmp_path: Path, bpe: Path) -> None:
    for name in ("tokenizer.json",):
        (tmp_path / name).write_bytes((bpe / name).read_bytes())
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass T: pass\n")
    settings = {"tokenizer_class": "T", "auto_map": {"AutoTokenizer": ["evil.T", "evil.T"]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    try:
        build_tokenizer("huggingface", tmp_path)
    except DataError as error:
        assert "without running code" in str(error)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("library", ["huggingface", "sentencepiece", "megatron"])
def test_missing_paths_are_refused(tmp_path: Path, library: str) -> None:
    with pytest.raises(ConfigError, match="nothing is downloaded"):
        build_tokenizer(library, tmp_path / "no")
    with pytest.raises(ConfigError, match=r"tokenizer\.model"):
        build_tokenizer(library)


@pytest.mark.parametrize("library", ["huggingface", "sentencepiece"])
def test_foreign_files_are_refused(tmp_path: Path, library: str) -> None:
    (tmp_path / "f").write_text("nothing of the kind")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "f", tmp_path / "folder"):
        with pytest.raises(DataError, match="tokenizer"):
            build_tokenizer(library, path)


def test_unknown_library_is_refused() -> None:
    with pytest.raises(ConfigError, match="huggingface or sentencepiece or byte"):
        build_tokenizer("yttm", "x")
