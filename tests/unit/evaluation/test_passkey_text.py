from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_pi.errors import ConfigError, DataError
from nemo_pi.evaluation.passkey_text import (
    INSTRUCTION,
    NEEDLE,
    QUESTION,
    SENTENCES,
    passkey_document,
    shortest_length,
)


@settings(max_examples=60, deadline=None)
@given(more=st.integers(0, 700), trial=st.integers(0, 10**6), depth=st.one_of(st.none(), st.floats(0, 1)))
def test_every_length_is_hit_exactly(tokenizer: Any, more: int, trial: int, depth: float | None) -> None:
    length = shortest_length(tokenizer) + more
    document = passkey_document(tokenizer, length, trial, seed=1, depth=depth)
    assert len(document.token_ids) == length
    assert tokenizer.encode(document.text) == list(document.token_ids)


def test_every_length_in_a_row_and_far_ones_are_hit_at_both_ends(tokenizer: Any) -> None:
    least = shortest_length(tokenizer)
    for length in [*range(least, least + 60), 2048, 5001]:
        for depth in (0.0, 1.0):
            assert len(passkey_document(tokenizer, length, 0, seed=0, depth=depth).token_ids) == length


def test_a_tokenizer_that_looks_far_around_gets_exact_lengths_too() -> None:
    class Sevens:
        """Every seven bytes are a token, so that a change shifts all that follow."""

        bos_id = None

        def encode(self, text: str) -> list[int]:
            data = text.encode()
            return [hash(data[i : i + 7]) for i in range(0, len(data), 7)]

    for length in range(shortest_length(Sevens()), 200):
        for trial in range(5):
            assert len(passkey_document(Sevens(), length, trial, seed=0).token_ids) == length


def test_the_document_is_the_papers(byte_tokenizer: Any) -> None:
    assert SENTENCES == (
        "The grass is green.",
        "The sky is blue.",
        "The sun is yellow.",
        "Here we go.",
        "There and back again.",
    )
    document = passkey_document(byte_tokenizer, 1500, 3, seed=7, depth=0.5)
    key = document.key
    lines = document.text.split("\n")
    assert len(key) == 5 and key.isdigit()
    assert lines[0] == INSTRUCTION
    assert lines[2] == f"The pass key is {key}. Remember it. {key} is the pass key." == NEEDLE.format(key=key)
    assert lines[4] == f"What is the pass key? The pass key is {key}" == f"{QUESTION} {key}"
    assert document.text.count(key) == 3
    filler = " ".join(itertools.chain.from_iterable([SENTENCES] * 100))
    assert lines[1] in filler and lines[3] in filler and lines[3].startswith(SENTENCES)
    assert abs(len(lines[1]) - len(lines[3])) < 2 * len(" ".join(SENTENCES))


def test_the_answer_is_the_last_tokens(tokenizer: Any) -> None:
    for trial in range(20):
        document = passkey_document(tokenizer, 600, trial, seed=0)
        prompt = tokenizer.encode(document.text.removesuffix(f" {document.key}"))
        assert list(document.token_ids[: -document.num_answer_tokens]) == prompt
        assert 1 <= document.num_answer_tokens <= 6


@pytest.mark.parametrize("depth", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_the_passkey_lies_at_the_depth(tokenizer: Any, depth: float) -> None:
    text = passkey_document(tokenizer, 3000, 0, seed=0, depth=depth).text
    begin = len(INSTRUCTION)
    end = text.index("What is the pass key?")
    assert (text.index("The pass key is") - begin) / (end - begin) == pytest.approx(depth, abs=0.05)


def test_a_document_is_a_pure_function_of_seed_length_and_trial(byte_tokenizer: Any) -> None:
    first = passkey_document(byte_tokenizer, 500, 2, seed=1)
    passkey_document(byte_tokenizer, 900, 5, seed=9)
    assert passkey_document(byte_tokenizer, 500, 2, seed=1) == first
    others = [
        passkey_document(byte_tokenizer, *args, seed=seed)
        for args, seed in (((501, 2), 1), ((500, 3), 1), ((500, 2), 2))
    ]
    assert len({first.key, *(other.key for other in others)}) == 4
    assert len({first.depth, *(other.depth for other in others)}) == 4


def test_keys_are_the_same_on_every_machine(byte_tokenizer: Any) -> None:
    documents = [passkey_document(byte_tokenizer, 500, trial, seed=1) for trial in range(3)]
    assert [document.key for document in documents] == ["86651", "28313", "82699"]


def test_keys_spread_over_all_digits_and_keep_leading_zeros(byte_tokenizer: Any) -> None:
    keys = [passkey_document(byte_tokenizer, 400, trial, seed=0).key for trial in range(300)]
    assert all(len(key) == 5 for key in keys)
    for place in range(5):
        assert {key[place] for key in keys} == set("0123456789")


def test_bos_counts_and_comes_first(byte_tokenizer: Any, tokenizer: Any) -> None:
    document = passkey_document(byte_tokenizer, 500, 0, seed=0, bos=True)
    assert document.token_ids[0] == 256 and len(document.token_ids) == 500
    assert 256 not in passkey_document(byte_tokenizer, 500, 0, seed=0).token_ids
    if tokenizer.bos_id is None:
        with pytest.raises(ConfigError, match="beginning-of-text"):
            passkey_document(tokenizer, 500, 0, seed=0, bos=True)


def test_impossible_requests_are_refused(byte_tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"at least 2\d\d tokens"):
        passkey_document(byte_tokenizer, 100, 0, seed=0)
    for depth in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="depth"):
            passkey_document(byte_tokenizer, 500, 0, seed=0, depth=depth)
