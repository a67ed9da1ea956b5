"""Read and write the bundled text: xz-compressed JSON lines, one document each."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

DEMO = Path(__file__).resolve().parent
TEXT = DEMO / "text"
MODEL = DEMO / "model"
SPLITS = ("train", "valid", "heldout")


@dataclass(frozen=True)
class Document:
    """One book, speech or group of chapters.

    Attributes:
        title: what a reader would call it, e.g. ``State of the Union 1946, Harry S. Truman``.
        source: the collection it comes from: ``bible``, ``sotu``, ``moby-dick`` or ``austen``.
        text: normalised ASCII text; paragraphs are separated by a single newline.
    """

    title: str
    source: str
    text: str


def read_documents(split: str) -> Iterator[Document]:
    """Yield the bundled documents of ``train``, ``valid`` or ``heldout`` in their stored order."""
    with lzma.open(TEXT / f"{split}.jsonl.xz", "rt", encoding="ascii") as lines:
        for line in lines:
            yield Document(**json.loads(line))


def write_documents(split: str, documents: Iterable[Document], folder: Path = TEXT) -> Path:
    """Write documents as ``<split>.jsonl.xz`` and return the path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{split}.jsonl.xz"
    with lzma.open(path, "wt", encoding="ascii", preset=9 | lzma.PRESET_EXTREME) as lines:
        for document in documents:
            lines.write(json.dumps(asdict(document)) + "\n")
    return path
