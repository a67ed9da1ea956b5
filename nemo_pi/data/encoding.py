"""Turns JSONL lines into token ids; light to import, so that worker processes start quickly."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemo_pi.bounded.json_text import parse_json
from nemo_pi.data.chat import ChatEncoder
from nemo_pi.data.conversations import read_conversation
from nemo_pi.data.jsonl import Line
from nemo_pi.data.tokenizer import Tokenizer, build_tokenizer
from nemo_pi.errors import DataError


@dataclass(frozen=True)
class EncodingRules:
    """What a worker must know."""

    tokenizer: dict[str, Any]
    """Keyword arguments of `nemo_pi.data.tokenizer.build_tokenizer`."""
    keys: tuple[str, ...] = ("text",)
    """Keys of the JSON objects to encode, each into its own dataset."""
    append_eod: bool = False
    """End every document with the tokenizer's end-of-document id."""
    keys_option: str | None = "--json-keys"
    """The flag that names `keys`, for messages; None: they cannot be chosen."""
    chat: bool = False
    """Lines are conversations; a row is their ids and, as a second array, which of them are learned."""


class Encoder:
    """Encodes lines by `EncodingRules`."""

    def __init__(self, rules: EncodingRules, tokenizer: Tokenizer | None = None) -> None:
        self.rules = rules
        self.tokenizer = tokenizer or build_tokenizer(**rules.tokenizer)
        self._ending = [self.tokenizer.eod_id] if rules.append_eod else []
        assert None not in self._ending, "preprocess() asks for the end-of-document id beforehand"
        self._chat = ChatEncoder(self.tokenizer, append_eod=rules.append_eod) if rules.chat else None

    def __call__(self, lines: Iterable[Line]) -> list[list[NDArray[Any]]]:
        """Ids of each line, one array per key; an empty text gives an empty array."""
        if self._chat is not None:
            return [self._conversation(line, self._chat) for line in lines]
        return [[self._encode(line, text) for text in self._texts(line)] for line in lines]

    def _conversation(self, line: Line, chat: ChatEncoder) -> list[NDArray[Any]]:
        record = _record(line)
        try:
            encoded = chat(read_conversation(record))
        except UnicodeError as error:
            raise _bad_line(line, "text that UTF-8 can hold", str(error)) from error
        except ValueError as error:
            raise _bad_line(line, "a conversation", str(error)) from error
        return [encoded.ids_S, encoded.scored_S]

    def _texts(self, line: Line) -> list[str]:
        record = _record(line)
        for key in self.rules.keys:
            if not isinstance(record.get(key), str):
                given = (
                    type(record[key]).__name__ if key in record else f"only {', '.join(record) or 'no keys'}"
                )
                option = f" ({self.rules.keys_option})" if self.rules.keys_option else ""
                raise _bad_line(line, f"a string under the key {key!r}{option}", given)
        return [record[key] for key in self.rules.keys]

    def _encode(self, line: Line, text: str) -> NDArray[np.int32]:
        try:
            ids = self.tokenizer.encode(text)
        except (UnicodeError, TypeError) as error:
            # A lone surrogate is legal JSON and no text.
            raise _bad_line(line, "text that UTF-8 can hold", str(error)) from error
        return np.asarray([*ids, *self._ending] if ids else [], dtype=np.int32)


def _record(line: Line) -> dict[str, Any]:
    try:
        record = parse_json(line.raw, most_levels=None)
    except ValueError as error:
        raise _bad_line(line, "one JSON object in UTF-8", str(error)) from error
    if not isinstance(record, dict):
        raise _bad_line(line, "a JSON object", type(record).__name__)
    return record


_encoder: Encoder | None = None


def start_worker(rules: EncodingRules) -> None:
    """Build this process's encoder once."""
    global _encoder
    # The processes are the parallelism: threads of each one's tokenizer would compete for their cores.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _encoder = Encoder(rules)


def encode_lines(lines: Sequence[Line]) -> list[list[NDArray[Any]]]:
    """Encode in a worker that `start_worker` has prepared."""
    assert _encoder is not None
    return _encoder(lines)


def _bad_line(line: Line, required: str, given: str) -> DataError:
    return DataError(
        f"{line.path}, line {line.number}", required=required, given=given, fix="correct or remove the line"
    )
