"""Passkey blocks are whole windows, and hold the documents that were asked for."""

from __future__ import annotations

import numpy as np
import pytest

from demo.corpus import read_documents
from demo.prepare import EOD, load_encoder, passkey_blocks

WINDOW, COUNT = 512, 8


@pytest.fixture(scope="module")
def stream() -> np.ndarray:
    text = next(iter(read_documents("valid"))).text
    return np.array(load_encoder().encode(text).ids, dtype=np.uint16)


def key_documents(block: np.ndarray) -> list[str]:
    """The documents of a block that ask for a key, decoded."""
    tokenizer, ends = load_encoder(), np.flatnonzero(block == EOD)
    texts = [tokenizer.decode(part.tolist()) for part in np.split(block, ends + 1)]
    return [text for text in texts if "pass key" in text]


@pytest.mark.parametrize("first_length", [None, 400])
def test_blocks_are_windows_of_answered_questions(stream: np.ndarray, first_length: int | None) -> None:
    tokenizer = load_encoder()
    blocks = list(
        passkey_blocks(
            stream,
            tokenizer,
            window=WINDOW,
            count=COUNT,
            min_length=80,
            max_length=WINDOW - 2,
            seed=3,
            first_length=first_length,
        )
    )
    assert len(blocks) == COUNT and all(len(block) == WINDOW for block in blocks)
    longest = []
    for block in blocks:
        documents = key_documents(block)
        assert documents
        for text in documents:
            answer = text.split()[-1]
            assert answer.isdigit() and text.count(answer) >= 2  # said once, answered at the end
        longest.append(max(len(tokenizer.encode(text).ids) for text in documents))
    # A document may fall short of its length by a sentence.
    assert min(longest) >= (first_length or 80) - 45
    assert first_length is not None or min(longest) < 355


def test_early_keys_lie_early(stream: np.ndarray) -> None:
    arguments = {"window": WINDOW, "count": 40, "min_length": 80, "max_length": WINDOW - 2, "seed": 3}
    blocks = passkey_blocks(stream, load_encoder(), first_length=450, **arguments)  # type: ignore[arg-type]
    texts = [key_documents(block)[0] for block in blocks]
    depths = [text.index(text.split()[-1]) / len(text) for text in texts]
    assert np.median(depths) < 0.4 and max(depths) > 0.5
