"""Turn the bundled text into what the demo's runs read: .bin/.idx files and held-out documents.

Passkey documents are stored in blocks of exactly one training window each: a passkey document of random
length at a random place, real text around it. A plain concatenation would be cut anywhere, and a question
whose key lies in the window before teaches nothing but guessing. Run as a script::

    python -m demo.prepare /tmp/demo --window 4096
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder
from numpy.typing import NDArray
from tokenizers import Tokenizer

from demo.corpus import MODEL, read_documents
from demo.make_passkeys import PasskeyMaker, text_sentences
from nemo_pi.cli.parser import Parser

EOD = 0  # <|endoftext|>
Tokens = NDArray[np.uint16]


@dataclass(frozen=True)
class Prepared:
    """Where the prepared data lies; prefixes are without ``.bin``/``.idx``.

    Attributes:
        train, valid: whole works, one document each, ended by the end-of-text token.
        passkey: blocks of exactly ``window`` tokens, packed with passkey documents.
        heldout: JSON lines with ``title``, ``source`` and ``tokens`` (no end-of-text token).
        num_tokens: tokens in each of the four, by name.
    """

    train: Path
    valid: Path
    passkey: Path
    heldout: Path
    num_tokens: dict[str, int]


@cache
def load_encoder() -> Tokenizer:
    """Return the bundled tokenizer."""
    return Tokenizer.from_file(str(MODEL / "tokenizer.json"))


@cache
def encode_split(split: str, tokenizer: Tokenizer) -> list[Tokens]:
    """Encode every document of a split, end-of-text token appended; once, however many runs will read it."""
    return [
        np.array([*tokenizer.encode(document.text).ids, EOD], dtype=np.uint16)
        for document in read_documents(split)
    ]


def write_indexed(prefix: Path, documents: Iterable[Tokens]) -> int:
    """Write Megatron ``.bin``/``.idx`` files (uint16) and return the number of tokens."""
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.uint16)
    total = 0
    for document in documents:
        builder.add_document(torch.from_numpy(document.astype(np.int32)), [len(document)])
        total += len(document)
    builder.finalize(f"{prefix}.idx")
    return total


def passkey_blocks(
    stream: Tokens,
    tokenizer: Tokenizer,
    *,
    window: int,
    count: int,
    min_length: int,
    max_length: int,
    seed: int,
    short_length: int | None = None,
    first_length: int | None = None,
) -> Iterator[Tokens]:
    """Yield ``count`` blocks of exactly ``window`` tokens, packed with passkey documents and text.

    Lengths are log-uniform: most documents are short, so that a block asks for several keys, and some fill
    the window. What is left of a block is a piece of text, at a random place among the documents.

    Args:
        stream: encoded real text that fills the blocks; pieces of it start at a paragraph.
        window: training window in tokens; sample i of the data set is then block i.
        min_length, max_length: span of the passkey documents' lengths in tokens.
        short_length: instead of ``max_length`` in three blocks of four, for many keys in few tokens;
            ``None``: all blocks alike.
        first_length: the shortest of the documents drawn first in each block, whose keys lie early: for keys
            that are far away; ``None``: ``min_length``, and keys anywhere.
    """
    if max_length >= window:
        raise ValueError(f"max_length {max_length} must leave room for the end-of-text token in {window}")
    rng, newline = random.Random(seed), tokenizer.encode("\n").ids[0]
    starts = np.flatnonzero(stream[:-window] == newline) + 1

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text).ids)

    maker = PasskeyMaker(encode, text_sentences())
    for block in range(count):
        parts: list[list[int]] = []
        room = window
        longest = short_length if short_length and block % 4 else max_length
        while room > min_length:
            far = not parts and first_length
            span = math.log(far or min_length), math.log(min(longest, room - 1))
            document = encode(maker.document(int(math.exp(rng.uniform(*span))), rng, early=bool(far)))
            parts.append([*document, EOD])
            room -= len(document) + 1
        start = int(starts[rng.randrange(len(starts))])
        text = [int(token) for token in stream[start : start + room - 1]]
        parts.insert(rng.randint(0, len(parts)), [*text, EOD] if room else [])
        yield np.array([token for part in parts for token in part], dtype=np.uint16)


def echo_blocks(stream: Tokens, *, window: int, count: int, seed: int) -> Iterator[Tokens]:
    """Yield ``count`` blocks of ``window`` tokens in which passages of real text come back word for word.

    Passage, other text, passage again: half of the tokens can be copied, which teaches a small model to
    look back much sooner than plain text does. Lengths are log-uniform.

    Args:
        stream: encoded real text.
        window: training window in tokens.
    """
    rng = random.Random(seed)

    def piece(shortest: int, longest: int) -> list[int]:
        length = int(math.exp(rng.uniform(math.log(shortest), math.log(longest))))
        start = rng.randrange(len(stream) - length)
        return [*stream[start : start + length].tolist(), EOD]

    longest = min(160, 3 * window // 8)
    for _ in range(count):
        tokens: list[int] = []
        while len(tokens) < window:
            passage = piece(8, longest)
            tokens += passage + piece(1, longest) + passage
        yield np.array(tokens[:window], dtype=np.uint16)


def write_heldout(path: Path, tokenizer: Tokenizer) -> int:
    """Write the held-out documents as token lists and return the number of tokens."""
    total = 0
    with path.open("w", encoding="utf-8") as lines:
        for document in read_documents("heldout"):
            tokens = tokenizer.encode(document.text).ids
            total += len(tokens)
            row = {"title": document.title, "source": document.source, "tokens": tokens}
            lines.write(json.dumps(row) + "\n")
    return total


def prepare(
    folder: Path | str,
    *,
    window: int = 4096,
    passkey_blocks_count: int = 256,
    echo_blocks_count: int = 0,
    min_length: int = 80,
    max_length: int | None = None,
    short_length: int | None = None,
    first_length: int | None = None,
    seed: int = 1234,
) -> Prepared:
    """Write everything a demo run reads into ``folder``, from the bundled files alone.

    Args:
        folder: created if missing; files of the same names are overwritten.
        window: training window in tokens of the run that will read the data.
        passkey_blocks_count: passkey blocks to write, ``window`` tokens each.
        echo_blocks_count: echo blocks to write; 0 writes none.
        min_length, max_length: span of the passkey documents' lengths in tokens, question and answer
            included; ``None`` is the window less two.
        short_length: the longest in three blocks of four; ``None``: all blocks alike.
        first_length: the shortest of each block's first, whose keys lie early; ``None``: no such documents.
        seed: everything random follows from it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = load_encoder()
    done = Prepared(
        train=folder / "train_text_document",
        valid=folder / "valid_text_document",
        passkey=folder / "passkey_text_document",
        heldout=folder / "heldout.jsonl",
        num_tokens={},
    )
    train = encode_split("train", tokenizer)
    blocks = passkey_blocks(
        np.concatenate(train),
        tokenizer,
        window=window,
        count=passkey_blocks_count,
        min_length=min_length,
        max_length=window - 2 if max_length is None else max_length,
        short_length=short_length,
        first_length=first_length,
        seed=seed,
    )
    done.num_tokens["train"] = write_indexed(done.train, train)
    done.num_tokens["valid"] = write_indexed(done.valid, encode_split("valid", tokenizer))
    done.num_tokens["passkey"] = write_indexed(done.passkey, blocks)
    if echo_blocks_count:
        echoes = echo_blocks(np.concatenate(train), window=window, count=echo_blocks_count, seed=seed)
        write_indexed(folder / "echo_text_document", echoes)
    done.num_tokens["heldout"] = write_heldout(done.heldout, tokenizer)
    return done


def main() -> None:
    """Prepare a folder and print the number of tokens in each part."""
    parser = Parser(description="prepare the demo's data from the bundled text")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--window", type=int, default=4096, help="training window in tokens")
    parser.add_argument("--passkey-blocks", type=int, default=256, help="windows with a passkey document")
    parser.add_argument("--echo-blocks", type=int, default=0, help="windows of repeated passages")
    parser.add_argument("--min-length", type=int, default=80, help="tokens of the shortest passkey document")
    parser.add_argument("--max-length", type=int, default=None, help="default: the window less two")
    parser.add_argument("--short-length", type=int, default=None, help="the longest in three blocks of four")
    parser.add_argument("--first-length", type=int, help="the shortest drawn first in a block, its key early")
    parser.add_argument("--seed", type=int, default=1234)
    args = parser.parse_args()
    done = prepare(
        args.folder,
        window=args.window,
        passkey_blocks_count=args.passkey_blocks,
        echo_blocks_count=args.echo_blocks,
        min_length=args.min_length,
        max_length=args.max_length,
        short_length=args.short_length,
        first_length=args.first_length,
        seed=args.seed,
    )
    for name, count in done.num_tokens.items():
        print(f"{getattr(done, name)}: {count} tokens")


if __name__ == "__main__":
    main()
