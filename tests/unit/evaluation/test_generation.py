"""Batches, draws and ends, with logits that a few lines make. Models: test_huggingface_cache.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from nemo_pi.errors import ConfigError, DataError
from nemo_pi.evaluation.generation import (
    GenerationRequest,
    check_room,
    generate_batch,
    generation_batches,
)
from nemo_pi.evaluation.sampling import Sampling

VOCAB = 97


def follow(text_BS: Tensor) -> Tensor:
    """After a token its successor is likeliest, then what depends on the whole text."""
    logits_BV = torch.zeros(text_BS.size(0), VOCAB)
    for row, text in zip(logits_BV, text_BS.tolist(), strict=True):
        row[sum(text) % VOCAB] = 1.0
        row[(text[-1] + 1) % VOCAB] = 1.5
    return logits_BV


def letters(ids: Sequence[int]) -> str:
    return "".join(chr(ord("a") + i) for i in ids)


def alone(prompt: list[int], request: GenerationRequest) -> Any:
    return generate_batch(follow, [prompt], [0], request)[0]


def test_prompts_of_one_length_go_together_up_to_the_budget() -> None:
    request = GenerationRequest(4, batch_tokens=20)
    assert generation_batches([6, 3, 6, 3, 6, 30], request) == [[1, 3], [0, 2], [4], [5]]
    with pytest.raises(DataError, match=r"prompts\[1\]"):
        generation_batches([1, 0], request)


def test_greedy_batches_give_what_each_prompt_gives_alone() -> None:
    request = GenerationRequest(5)
    prompts = [[1, 2], [9, 9, 9], [40, 41]]
    assert generate_batch(follow, prompts, [0, 2], request) == [
        alone(prompts[0], request),
        alone(prompts[2], request),
    ]
    assert alone([1, 2], request).token_ids == (3, 4, 5, 6, 7) and alone([1, 2], request).text is None


def test_draws_depend_on_the_prompts_number_and_not_on_its_batch() -> None:
    request = GenerationRequest(12, Sampling(temperature=2.0, seed=3))
    prompts = [[1, 2], [7, 8], [1, 2]]
    together = generate_batch(follow, prompts, [0, 1, 2], request)
    apart = [text for i in range(3) for text in generate_batch(follow, prompts, [i], request)]
    assert together == apart
    assert together[0] != together[2], "one prompt twice draws twice"
    first = GenerationRequest(12, Sampling(temperature=2.0, seed=5))
    assert alone([1, 2], first) == together[2], "number 2 draws with seed 3 + 2"


def test_a_stop_token_ends_its_row_and_no_other() -> None:
    request = GenerationRequest(6, stop_ids=(5,), decode=letters)
    first, second = generate_batch(follow, [[1, 2], [10, 11]], [0, 1], request)
    assert first.token_ids == (3, 4, 5) and first.text == "de"
    assert second.token_ids == tuple(range(12, 18)) and second.text == "mnopqr"


def test_a_stop_string_ends_a_text_across_tokens_and_is_cut_off() -> None:
    request = GenerationRequest(9, stop_strings=("ghi", "zzz"), decode=letters)
    text = alone([1, 2], request)
    assert text.token_ids == (3, 4, 5, 6, 7, 8) and text.text == "def"
    assert alone([20], request).text == letters(range(21, 30))


def test_the_earliest_of_several_stop_strings_counts() -> None:
    # One token may bring more than one of them.
    request = GenerationRequest(2, stop_strings=("\n\n", "Q:"), decode=lambda ids: "yes Q: no\n\n")
    assert alone([1], request).text == "yes "


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"batch_tokens": 0}, "batch_tokens"),
        ({"stop_strings": ("x",)}, "stop_strings"),
        ({"stop_strings": ("",), "decode": letters}, "stop_strings"),
    ],
)
def test_requests_that_cannot_be_are_refused(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=f"^{field}"):
        GenerationRequest(**{"max_new_tokens": 3, **settings})


def test_there_is_room_from_one_token_to_the_window_s_last() -> None:
    for prompt, new in ((1, 1), (7, 1), (1, 7), (4, 4)):
        check_room(8, prompt, new, whose="the model's", more="x")
    for prompt, new in ((1, 0), (1, 8), (7, 2)):
        with pytest.raises(ConfigError, match=f"from 1 to {8 - prompt}"):
            check_room(8, prompt, new, whose="the model's", more="x")
    for prompt in (0, 8):
        with pytest.raises(DataError):
            check_room(8, prompt, 1, whose="the model's", more="x")
