"""Export to and import from Hugging Face's config entries, with transformers as the reader."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from nemo_pi.errors import CheckpointError
from nemo_pi.rope.hf import RECORD, config_entries, from_hf, to_hf
from nemo_pi.rope.spec import ContextExtension
from nemo_pi.rope.tables import attention_factor, inverse_frequencies, rotary_cos_sin
from tests.unit.rope.peers import METHODS, UNTYPED, make_spec, random_spec


def through_json(values: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(values))


def reader(config: dict[str, Any], head_dim: int) -> LlamaRotaryEmbedding:
    return LlamaRotaryEmbedding(LlamaConfig(**config, hidden_size=head_dim, num_attention_heads=1))


@pytest.mark.parametrize("method", METHODS)
def test_transformers_reads_what_was_written(method: str) -> None:
    """The exported entries alone give transformers our tables, far beyond the original window as well."""
    spec = make_spec(method)
    for length in (100, 511, 512, 513, 4096, 10_000):
        positions = torch.tensor([[0, 1, 50, length - 1]])
        ours = rotary_cos_sin(spec, positions)
        theirs = reader(through_json(to_hf(spec)), 64)(torch.zeros(1), positions)
        for ours_BSF, theirs_BSD in zip(ours, theirs, strict=True):
            # fp32 rounding of the angle; a dynamic base is stretched in fp32 there.
            tolerance = length * (2e-6 if method == "dynamic" else 2.0**-22) + 1e-6
            torch.testing.assert_close(ours_BSF, theirs_BSD[..., :32], rtol=0.0, atol=tolerance)


@pytest.mark.parametrize("method", METHODS)
def test_transformers_finds_nothing_odd(method: str, caplog: pytest.LogCaptureFixture) -> None:
    """No missing or unrecognised key, no wrong type: its validation logs a warning for each."""
    logger = logging.getLogger("transformers.modeling_rope_utils")
    logger.addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.WARNING, logger="transformers"):
            reader(through_json(to_hf(make_spec(method))), 64)
    finally:
        logger.removeHandler(caplog.handler)
    # The one entry that its type computes with and its validation has forgotten.
    forgotten = {"{'factor'}"} if method == "proportional" else set()
    assert {record.getMessage().rpartition(": ")[2] for record in caplog.records} == forgotten


@pytest.mark.parametrize(
    ("method", "rope_type", "window", "original"),
    [
        ("none", "default", 4096, None),
        ("linear", "linear", 4096, None),
        ("ntk", "default", 4096, None),
        ("dynamic", "dynamic", 512, None),
        ("yarn", "yarn", 512, 512),
        ("llama3", "llama3", 4096, 512),
        ("longrope", "longrope", 4096, 512),
        ("abf", "default", 4096, None),
        ("proportional", "proportional", 4096, None),
    ],
)
def test_fields(method: str, rope_type: str, window: int, original: int | None) -> None:
    entries = to_hf(make_spec(method))
    rope = entries["rope_parameters"]
    assert (rope["rope_type"], entries["max_position_embeddings"]) == (rope_type, window)
    assert rope.get("original_max_position_embeddings") == original
    assert rope.get("factor") == (None if rope_type == "default" else 8.0)
    assert rope.get("partial_rotary_factor") == (0.25 if method == "proportional" else None)


@pytest.mark.parametrize("method", METHODS)
def test_a_file_says_it_once_and_transformers_reads_the_same(method: str) -> None:
    spec = make_spec(method)
    file = through_json(config_entries(spec))
    assert "rope_parameters" not in file
    for length in (100, 512, 513, 4096, 10_000):
        positions = torch.tensor([[0, 1, 50, length - 1]])
        ours, theirs = rotary_cos_sin(spec, positions), reader(file, 64)(torch.zeros(1), positions)
        for ours_BSF, theirs_BSD in zip(ours, theirs, strict=True):
            tolerance = length * (2e-6 if method == "dynamic" else 2.0**-22) + 1e-6
            torch.testing.assert_close(ours_BSF, theirs_BSD[..., :32], rtol=0.0, atol=tolerance)


@pytest.mark.parametrize("seed", range(70))
def test_round_trip_through_a_file(seed: int) -> None:
    spec = random_spec(seed)
    file = through_json(config_entries(spec))
    assert from_hf(file, spec.head_dim) == spec
    file.pop(RECORD, None)
    read = from_hf(file, spec.head_dim)
    for length in (1, spec.original_window, spec.original_window + 1, spec.target_window + 1):
        assert torch.equal(inverse_frequencies(read, length), inverse_frequencies(spec, length))
        assert attention_factor(read, length) == attention_factor(spec, length)
    if spec.method not in UNTYPED:
        assert read == spec


def test_plain_models_need_no_record() -> None:
    assert set(to_hf(ContextExtension.unscaled(2048, 64))) == {"rope_parameters", "max_position_embeddings"}


@pytest.mark.parametrize("seed", range(70))
def test_round_trip(seed: int) -> None:
    spec = random_spec(seed)
    assert from_hf(through_json(to_hf(spec)), spec.head_dim) == spec


@pytest.mark.parametrize("seed", range(70))
def test_round_trip_without_the_record_keeps_the_frequencies(seed: int) -> None:
    """As after a tool that keeps only the keys it knows."""
    spec = random_spec(seed)
    entries = through_json(to_hf(spec))
    entries.pop(RECORD, None)
    read = from_hf(entries, spec.head_dim)
    for length in (1, spec.original_window, spec.original_window + 1, spec.target_window + 1):
        assert torch.equal(inverse_frequencies(read, length), inverse_frequencies(spec, length))
    if spec.method not in UNTYPED:
        assert read == spec


def test_static_ntk_is_still_known_as_scaled() -> None:
    spec = make_spec("ntk")
    entries = through_json(to_hf(spec))
    read = from_hf(entries, 64)
    assert read.is_scaled and read.base == 10000.0 and read.original_window == 512


@pytest.mark.parametrize(
    "edit",
    [
        {"max_position_embeddings": 8192},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        {RECORD: {"original_window": 0}},
        {RECORD: None},
    ],
    ids=str,
)
def test_record_that_was_overtaken_is_ignored(edit: dict[str, Any]) -> None:
    entries = through_json(to_hf(make_spec("ntk"))) | edit
    read = from_hf(entries, 64)
    assert read.method == "none"
    assert read.base == entries["rope_parameters"]["rope_theta"]
    assert read.target_window == entries["max_position_embeddings"]


def test_record_of_another_head_is_ignored() -> None:
    assert from_hf(to_hf(make_spec("linear")), 128).head_dim == 128


@pytest.mark.parametrize(
    ("edit", "field", "words"),
    [
        # An exporter of another package can write any entries: here, plain RoPE of another base.
        ({"method": "softened", "method_package": "acme-rope 1.0"}, "method", "'acme-rope 1.0' did"),
        ({"method": "softened"}, "method", "one of: none"),
        ({"method": None}, "method", "delete nemo_pi_extension"),
        ({"factor": "eight"}, "factor", "write it unquoted"),
        ({"factor": 3.0}, "factor", "nemo_pi_extension.factor=null"),
        ({"extra_args": {"of_a_later_version": 1}}, "extra_args.of_a_later_version", "delete"),
        ({"extra_args": [1]}, "extra_args", "write key: value"),
    ],
    ids=str,
)
def test_a_record_that_cannot_be_understood_is_never_passed_over(
    edit: dict[str, Any], field: str, words: str
) -> None:
    """Without it, these entries are a plain model of the whole window, to be scaled once more."""
    entries = through_json(to_hf(make_spec("ntk")))
    entries[RECORD] |= edit
    with pytest.raises(CheckpointError) as caught:
        from_hf(entries, 64)
    assert caught.value.field == f"config.json ({RECORD}.{field})"
    assert words in caught.value.fix
    edited = {**entries, "max_position_embeddings": 8192}
    del entries[RECORD]
    assert (from_hf(entries, 64).method, from_hf(edited, 64).target_window) == ("none", 8192)


def test_interleaving_is_not_the_config_s_to_say() -> None:
    spec = make_spec("yarn", interleaved=True)
    assert from_hf(to_hf(spec), 64) == replace(spec, interleaved=False)


def test_partial_rotary_is_written() -> None:
    entries = to_hf(make_spec("linear", rotary_percent=0.5))
    assert entries["rope_parameters"]["partial_rotary_factor"] == 0.5
