"""What is drawn from, against transformers' own processors; and the draws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from nemo_pi.errors import ConfigError
from nemo_pi.evaluation.sampling import Sampler, Sampling, kept_probabilities

VOCAB = 50


def logits(rows: int = 6) -> Tensor:
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 3


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("top_k", [None, 1, 7, VOCAB, 10 * VOCAB])
@pytest.mark.parametrize("top_p", [None, 1e-3, 0.3, 0.9, 1.0])
def test_draws_from_what_transformers_draws_from(
    temperature: float, top_k: int | None, top_p: float | None
) -> None:
    processors: list[Any] = [TemperatureLogitsWarper(temperature)]
    processors += [] if top_k is None else [TopKLogitsWarper(top_k)]
    processors += [] if top_p is None else [TopPLogitsWarper(top_p)]
    theirs = logits()
    for processor in processors:
        theirs = processor(None, theirs)
    ours = kept_probabilities(logits(), Sampling(temperature, top_k, top_p))
    torch.testing.assert_close(ours, theirs.softmax(-1), rtol=1e-9, atol=1e-12)
    assert torch.equal(ours > 0, theirs.isfinite())


def test_no_temperature_takes_the_likeliest_and_the_first_of_equals() -> None:
    rows = logits()
    rows[0] = 1.0
    rows[1, [5, 9]] = 99.0
    chosen = Sampler(Sampling())(rows.float())
    assert chosen[:2].tolist() == [0, 5]
    assert torch.equal(chosen[2:], rows[2:].argmax(-1)) and chosen.dtype == torch.int64


def test_draws_follow_the_seed_and_the_probabilities() -> None:
    sampling = Sampling(temperature=1.0, top_k=4, seed=7)
    rows = logits(1).expand(4000, -1)
    first, again = (Sampler(sampling)(rows) for _ in range(2))
    other = Sampler(Sampling(temperature=1.0, top_k=4, seed=8))(rows)
    assert torch.equal(first, again) and not torch.equal(first, other)
    expected = kept_probabilities(logits(1), sampling)[0]
    seen = torch.bincount(first, minlength=VOCAB) / 4000
    # Four standard deviations of a share of 4,000 draws are at most 0.032.
    assert (seen - expected).abs().max() < 0.032
    sampler = Sampler(sampling)
    assert not torch.equal(sampler(rows), sampler(rows)), "each call draws anew"


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("temperature", {"temperature": -1.0}),
        ("temperature", {"temperature": float("nan")}),
        ("temperature", {"temperature": float("inf")}),
        ("temperature", {"top_k": 5}),
        ("temperature", {"top_p": 0.5}),
        ("top_k", {"temperature": 1.0, "top_k": 0}),
        ("top_p", {"temperature": 1.0, "top_p": 0.0}),
        ("top_p", {"temperature": 1.0, "top_p": 1.5}),
    ],
)
def test_settings_that_mean_nothing_are_refused(field: str, values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"^{field}: "):
        Sampling(**values)
