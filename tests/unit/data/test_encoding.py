"""Lines to ids: what is encoded, and the file and line of what cannot be."""

from __future__ import annotations

import pytest

from nemo_pi.data.encoding import Encoder, EncodingRules
from nemo_pi.data.jsonl import Line
from nemo_pi.errors import DataError


def encode(raw: bytes, keys: tuple[str, ...] = ("text",), append_eod: bool = False) -> list[list[int]]:
    rules = EncodingRules({"library": "byte"}, keys, append_eod)
    return [ids.tolist() for ids in Encoder(rules)([Line("f.jsonl", 7, raw)])[0]]


def test_text_and_end_of_document() -> None:
    assert encode(b'{"text": "ab", "x": 1}') == [[97, 98]]
    assert encode(b'{"text": "ab"}', append_eod=True) == [[97, 98, 256]]


def test_empty_text_has_no_end_either() -> None:
    assert encode(b'{"text": ""}', append_eod=True) == [[]]


def test_several_keys() -> None:
    assert encode(b'{"b": "b", "a": "a"}', keys=("a", "b")) == [[97], [98]]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b'{"text": "a"', "JSON"),
        (b"\x80", "UTF-8"),
        (b'["text"]', "a JSON object.*list"),
        (b'{"title": "a"}', "'text'.*only title"),
        (b"{}", "no keys"),
        (b'{"text": null}', "'text'.*NoneType"),
        (b'{"text": 3}', "'text'.*int"),
        (b'{"text": "\\ud800"}', "UTF-8"),
        (b"[" * 100_000, "JSON"),
        (b'{"text": "a"} {"text": "b"}', "JSON"),
    ],
)
def test_bad_lines_name_file_and_line(raw: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        encode(raw)
    assert caught.value.field == "f.jsonl, line 7"
