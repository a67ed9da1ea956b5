"""Tokenizers behind one small protocol: Hugging Face, sentencepiece and plain bytes.

Loading a tokenizer never runs code from its folder: Hugging Face tokenizers are built with
``trust_remote_code=False``, and a name is never looked up on the network: it is a local path.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from nemo_pi.bounded.files import read_bytes
from nemo_pi.bounded.json_text import (
    MOST_VALUES,
    MOST_VOCABULARY_BYTES,
    MOST_VOCABULARY_VALUES,
    check_amount,
)
from nemo_pi.bounded.places import exists
from nemo_pi.errors import ConfigError, DataError, quoted

# What transformers may read of a tokenizer's folder, and which of it lists tokens by the hundred thousand.
_READ = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".vocab")
_LARGE = ("tokenizer.json", "vocab.json", "tekken.json")

LIBRARIES = ("huggingface", "sentencepiece", "byte")
"""Values of ``model.tokenizer.library`` and ``--tokenizer-library`` (``megatron`` is read as huggingface)."""


@runtime_checkable
class Tokenizer(Protocol):
    """What data preparation and evaluation need of a tokenizer."""

    @property
    def name(self) -> str:
        """Library and path, for logs and reports."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest id that `encode` can return, added tokens included."""

    @property
    def eod_id(self) -> int | None:
        """Id that ends a document (the end-of-sequence token), or None."""

    @property
    def bos_id(self) -> int | None:
        """Id that begins a sequence, or None."""

    @property
    def start_ids(self) -> tuple[int, ...]:
        """Ids that the tokenizer's own post-processor puts before a text; empty where it adds none."""

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; no special token is added at either end."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`."""


class ByteTokenizer:
    """UTF-8 bytes as ids 0–255 and an end-of-document id 256: needs no file, fits any text."""

    name = "byte"
    vocab_size = 257
    eod_id: int | None = 256
    bos_id: int | None = None
    start_ids: tuple[int, ...] = ()

    def encode(self, text: str) -> list[int]:
        """The UTF-8 bytes of `text`."""
        return list(text.encode("utf-8"))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the byte ids; ids that are no byte are left out, broken UTF-8 becomes U+FFFD."""
        return bytes(i for i in ids if 0 <= i < 256).decode("utf-8", errors="replace")


class SentencePieceTokenizer:
    """A sentencepiece ``.model`` file.

    Args:
        model: path of the file.
    """

    def __init__(self, model: str | Path) -> None:
        import sentencepiece

        path = _existing(model, "a sentencepiece .model file")
        try:
            read_bytes(path, MOST_VOCABULARY_BYTES)
            self._processor: Any = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError, ValueError) as error:
            raise _unreadable(path, error) from error
        self.name = f"sentencepiece:{path}"
        self.vocab_size = int(self._processor.vocab_size())
        self.eod_id = _id_or_none(self._processor.eos_id())
        self.bos_id = _id_or_none(self._processor.bos_id())
        # It adds what it is asked for, and NeMo asks for nothing.
        self.start_ids: tuple[int, ...] = ()

    def encode(self, text: str) -> list[int]:
        """Piece ids of `text`."""
        return list(self._processor.encode(text))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the piece ids."""
        return str(self._processor.decode([int(i) for i in ids]))


class HuggingFaceTokenizer:
    """A local folder (or ``tokenizer.json`` file) that `transformers` reads as a tokenizer.

    Args:
        model: folder or file.
        vocab_file: GPT-2 style ``vocab.json``, with `merge_file`, instead of `model`.
        merge_file: GPT-2 style ``merges.txt``.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        vocab_file: str | Path | None = None,
        merge_file: str | Path | None = None,
    ) -> None:
        import transformers  # noqa: F401  its absence is no fault of the folder

        source = _existing(model if model is not None else vocab_file, "a folder with tokenizer.json")
        try:
            _check_files(source)
            self._tokenizer = _load_huggingface(source, vocab_file, merge_file)
        except ConfigError:
            raise
        except Exception as error:  # tokenizers raises bare Exception for a file that is none
            raise _unreadable(source, error) from error
        self.name = f"huggingface:{source}"
        self.vocab_size = 1 + max(self._tokenizer.get_vocab().values())
        self.eod_id = self._tokenizer.eos_token_id
        self.bos_id = self._tokenizer.bos_token_id
        self.start_ids = self._start_ids()

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; special tokens written out in the text are recognised, as NeMo does."""
        return list(self._tokenizer.encode(text, add_special_tokens=False, verbose=False))

    @property
    def transformers_tokenizer(self) -> Any:
        """transformers' own object, for what only it can do (chat templates, offsets)."""
        return self._tokenizer

    def _start_ids(self) -> tuple[int, ...]:
        bare = self.encode("a")
        whole = list(self._tokenizer.encode("a", add_special_tokens=True, verbose=False))
        # What is added behind the text, some tokenizers' end of text, would end a prompt before it is read.
        starts = (n for n in range(len(whole)) if whole[n : n + len(bare)] == bare)
        return tuple(whole[: next(starts, 0)])

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, special tokens included, with no cleaning of spaces."""
        return str(self._tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


def build_tokenizer(
    library: str,
    model: str | Path | None = None,
    type: str | None = None,
    *,
    vocab_file: str | Path | None = None,
    merge_file: str | Path | None = None,
) -> Tokenizer:
    """Build the tokenizer that ``model.tokenizer`` or the preprocessing flags describe.

    Args:
        library: one of `LIBRARIES`, or ``megatron`` (NeMo's word for GPT-2 vocabulary and merge files).
        model: folder or file of the tokenizer; not needed for ``byte``.
        type: NeMo's ``tokenizer.type``; read as `model` where `model` is missing.
        vocab_file: GPT-2 style vocabulary, with `merge_file`.
        merge_file: GPT-2 style merges.

    Raises:
        ConfigError: an unknown library or a missing path.
        DataError: a path that holds no readable tokenizer.
    """
    if library == "byte":
        return ByteTokenizer()
    if library in ("huggingface", "megatron") and vocab_file is not None:
        return HuggingFaceTokenizer(vocab_file=vocab_file, merge_file=merge_file)
    source = model if model is not None else type
    if library in ("huggingface", "megatron"):
        return HuggingFaceTokenizer(source)
    if library == "sentencepiece":
        return SentencePieceTokenizer(_required(source))
    raise ConfigError(
        "tokenizer.library", required=" or ".join(LIBRARIES), given=repr(library), fix="name one of these"
    )


def check_present(library: str, model: str | Path | None, type: str | None = None) -> None:
    """Refuses a path of `build_tokenizer` that is not there; nothing is read or imported for it.

    Args:
        library, model, type: as for build_tokenizer.

    Raises:
        ConfigError: naming the path.
    """
    if library != "byte":
        what = "a sentencepiece .model file" if library == "sentencepiece" else "a folder with tokenizer.json"
        _existing(model if model is not None else type, what)


def _check_files(source: Path) -> None:
    """Refuses files that no tokenizer has: larger ones, JSON of more values, pipes and devices.

    Raises:
        OSError, ValueError: naming the file.
    """
    beside = sorted(source.iterdir()) if source.is_dir() else [source]
    for path in beside:
        if path.is_dir() or path.suffix not in _READ:
            continue
        try:
            data = read_bytes(path, MOST_VOCABULARY_BYTES)
            if path.suffix == ".json":
                check_amount(data, MOST_VOCABULARY_VALUES if path.name in _LARGE else MOST_VALUES)
        except ValueError as error:
            raise ValueError(f"{path.name}: {error}") from error


def _load_huggingface(source: Path, vocab_file: str | Path | None, merge_file: str | Path | None) -> Any:
    import transformers

    if vocab_file is not None:
        merges = _existing(merge_file, "a merges.txt beside the vocabulary (--merge-file)")
        return _gpt2(source, merges)
    if source.is_file():
        return transformers.PreTrainedTokenizerFast(tokenizer_file=str(source))
    return transformers.AutoTokenizer.from_pretrained(
        str(source), trust_remote_code=False, local_files_only=True
    )


def _gpt2(vocab: Path, merges: Path) -> Any:
    import tokenizers
    import transformers

    model = tokenizers.ByteLevelBPETokenizer(str(vocab), str(merges))
    end = "<|endoftext|>"
    # A token that the vocabulary lacks would be given an id beyond the model's embedding.
    known = model.token_to_id(end) is not None
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=model._tokenizer, **({"eos_token": end} if known else {})
    )


def _required(path: str | Path | None) -> str | Path:
    if path is None:
        raise ConfigError(
            "tokenizer.model", required="a local path", given="nothing", fix="give the tokenizer's path"
        )
    return path


def _existing(path: str | Path | None, what: str) -> Path:
    found = Path(_required(path)).expanduser()
    if not exists(found) or not str(path):
        raise ConfigError(
            "tokenizer.model",
            required=what,
            given=f"{found}, which does not exist",
            fix="give a local path; nothing is downloaded",
        )
    return found


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(
        "tokenizer.model",
        required="a tokenizer that loads without running code from its folder",
        given=f"{path}: {quoted(error)}",
        fix="give a folder with tokenizer.json (or a sentencepiece .model with library sentencepiece)",
    )


def _id_or_none(value: int) -> int | None:
    return int(value) if value >= 0 else None
