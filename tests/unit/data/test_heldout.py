"""Held-out documents: what is read, and which line is named where one cannot be."""

from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path

import pytest

from nemo_pi.data.encoding import Encoder, EncodingRules
from nemo_pi.data.heldout import read_documents
from nemo_pi.data.jsonl import read_lines
from nemo_pi.data.tokenizer import ByteTokenizer
from nemo_pi.errors import DataError


def test_documents_longer_than_the_window_are_read(tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    lines = [json.dumps({"text": length * "a"}) for length in (3, 9, 8)]
    lines.append('{"text": "a\u2028"}')  # ends a line for str.splitlines, but not for JSON lines
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert read_documents(path, ByteTokenizer(), 8) == [[97] * 9]
    with pytest.raises(DataError, match=r"more than 9 tokens.*longest of 9"):
        read_documents(path, ByteTokenizer(), 9)
    with pytest.raises(DataError, match="a smaller --target-window"):
        read_documents(path, ByteTokenizer(), 9, window="--target-window")


@pytest.mark.parametrize("line", ["no json", '{"title": "x"}', '["text"]'])
def test_a_line_that_is_no_document_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text(f'{{"text": "fine"}}\n{line}\n')
    with pytest.raises(DataError, match=r"text\.jsonl:2"):
        read_documents(path, ByteTokenizer(), 1)


@pytest.mark.parametrize("packed", ["", ".gz", ".xz"])
def test_documents_are_read_as_preprocessing_reads_them(packed: str, tmp_path: Path) -> None:
    """A byte order mark, blank lines, lines ended by CR LF, compressed files, and folders."""
    content = b'\xef\xbb\xbf{"text": "abc"}\r\n\r\n  \n{"text": "", "x": null}\n{"text": "abcd"}'
    pack = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}[packed]
    path = tmp_path / "held" / f"text.jsonl{packed}"
    path.parent.mkdir()
    path.write_bytes(pack(content))
    rules = EncodingRules({"library": "byte"})
    prepared = [ids.tolist() for (ids,) in Encoder(rules)(read_lines([path])) if ids.size > 2]
    for given in (path, path.parent):
        assert read_documents(given, ByteTokenizer(), 2) == prepared == [[97, 98, 99], [97, 98, 99, 100]]


@pytest.mark.parametrize(
    "line", ['{"text": null}', '{"text": 7}', '{"text": ["a"]}', '"text"', "[" * 5000, '{"text": "\\ud800"}']
)
def test_a_document_that_is_no_text_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text(f'{{"text": "fine"}}\n\n{line}\n')
    with pytest.raises(DataError, match=r"text\.jsonl:3") as caught:
        read_documents(path, ByteTokenizer(), 1)
    assert "--json-keys" not in str(caught.value), "a flag of another command"


def test_a_damaged_file_and_an_empty_folder_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.jsonl.gz").write_bytes(gzip.compress(b'{"text": "abc"}\n' * 99)[:-9])
    with pytest.raises(DataError, match=r"text\.jsonl\.gz, after line"):
        read_documents(tmp_path / "text.jsonl.gz", ByteTokenizer(), 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"^documents: "):
        read_documents(tmp_path / "empty", ByteTokenizer(), 1)
