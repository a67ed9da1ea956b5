from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nemo_pi.config.parallelism import check_sequence, resolve_batches, resolve_layout
from nemo_pi.config.schema import ModelConfig
from nemo_pi.errors import ConfigError
from nemo_pi.parallel.layout import ParallelLayout
from tests.unit.config.builders import SHAPE

WIDE = replace(SHAPE, num_attention_heads=32, num_query_groups=8, num_layers=24, vocab_size=32000)
_SHORT = {
    "tp": "tensor_model_parallel_size",
    "pp": "pipeline_model_parallel_size",
    "vpp": "virtual_pipeline_model_parallel_size",
    "cp": "context_parallel_size",
    "exchange": "cp_comm_type",
    "sp": "sequence_parallel",
    "micro": "micro_batch_size",
    "total": "global_batch_size",
}


def config(**short: Any) -> ModelConfig:
    return ModelConfig(**{_SHORT[key]: value for key, value in short.items()})


@pytest.mark.parametrize(
    ("sizes", "world", "expected"),
    [
        ({}, 1, ParallelLayout()),
        ({}, 6, ParallelLayout(dp=6)),
        ({"tp": 2, "pp": 3, "sp": True}, 12, ParallelLayout(tp=2, pp=3, dp=2, sequence_parallel=True)),
        ({"pp": 4, "vpp": 3}, 8, ParallelLayout(pp=4, vpp=3, dp=2)),
        ({"pp": 4, "vpp": 1}, 4, ParallelLayout(pp=4)),
        ({"tp": 4, "cp": 2}, 16, ParallelLayout(tp=4, cp=2, dp=2)),
        ({"cp": 2, "exchange": "p2p"}, 2, ParallelLayout(cp=2, cp_comm_type="p2p")),
        ({"tp": 2, "cp": 4, "exchange": "a2a"}, 8, ParallelLayout(tp=2, cp=4, cp_comm_type="a2a")),
    ],
)
def test_data_parallel_size_is_what_remains(
    sizes: dict[str, Any], world: int, expected: ParallelLayout
) -> None:
    layout = resolve_layout(config(**sizes), WIDE, world)
    assert layout == expected
    assert layout.world_size == world


@pytest.mark.parametrize(
    ("sizes", "world", "field", "words"),
    [
        ({"tp": 3}, 3, "tensor_model_parallel_size", "num_attention_heads=32"),
        ({"tp": 16}, 16, "tensor_model_parallel_size", "num_query_groups=8"),
        ({"tp": 0}, 1, "tensor_model_parallel_size", "at least 1"),
        ({"pp": 5}, 5, "pipeline_model_parallel_size", "num_layers=24"),
        ({"pp": 4, "vpp": 4}, 4, "virtual_pipeline_model_parallel_size", "num_layers=24"),
        ({"vpp": 2}, 1, "virtual_pipeline_model_parallel_size", "pipeline_model_parallel_size=1"),
        ({"vpp": 0, "pp": 2}, 2, "virtual_pipeline_model_parallel_size", "at least 1"),
        ({"cp": -1}, 1, "context_parallel_size", "at least 1"),
        ({"cp": 2, "exchange": "ring"}, 2, "cp_comm_type", "all_gather, p2p, a2a"),
        ({"exchange": "p2p"}, 1, "cp_comm_type", "context_parallel_size=1"),
        ({"tp": 4, "cp": 4, "exchange": "a2a"}, 16, "cp_comm_type", "2 key/value heads a rank"),
        ({"sp": True}, 1, "sequence_parallel", "2 or more"),
        ({"tp": 2, "pp": 2}, 6, "tensor_model_parallel_size × pipeline × context", "world size 6"),
        ({"tp": 2}, 1, "tensor_model_parallel_size × pipeline × context", "launch 2 ranks"),
        ({"tp": 2}, 3, "tensor_model_parallel_size × pipeline × context", "launch 4 ranks"),
        ({"tp": 2}, 9, "tensor_model_parallel_size × pipeline × context", "launch 10 ranks"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(
    sizes: dict[str, Any], world: int, field: str, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_layout(config(**sizes), WIDE, world)
    assert caught.value.field == f"model.{field}"
    assert words in str(caught.value)


def test_the_mlp_must_divide_too() -> None:
    with pytest.raises(ConfigError, match="ffn_hidden_size=") as caught:
        resolve_layout(config(tp=4), replace(WIDE, ffn_hidden_size=2 * 1001), 4)
    assert "tensor_model_parallel_size=2" in caught.value.fix


@pytest.mark.parametrize(("asked", "offered"), [(3, 2), (6, 4), (7, 4)])
def test_the_size_that_is_offered_is_the_largest_below(asked: int, offered: int) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_layout(config(tp=asked), WIDE, asked)
    assert caught.value.fix.startswith(
        f"model.tensor_model_parallel_size={offered} (all that fit below {asked}: 1, 2"
    )


def test_a_vocabulary_need_not_divide() -> None:
    """What is missing is padded: SmolLM's 49,152 divide, Phi-2's 51,200 do, GPT-2's 50,257 by nothing."""
    assert resolve_layout(config(tp=4), replace(WIDE, vocab_size=50257), 4).tp == 4


@pytest.mark.parametrize(
    ("sizes", "layout", "number"),
    [
        ({"micro": 1, "total": 1}, ParallelLayout(), 1),
        ({"micro": 2, "total": 24}, ParallelLayout(dp=3), 4),
        ({"micro": 1, "total": 16}, ParallelLayout(pp=4, vpp=2, dp=2), 8),
        ({"micro": 3, "total": 12}, ParallelLayout(pp=4, vpp=2), 4),
        ({"micro": 1, "total": 6}, ParallelLayout(pp=4), 6),
    ],
)
def test_micro_batches(sizes: dict[str, int], layout: ParallelLayout, number: int) -> None:
    assert resolve_batches(config(**sizes), layout) == number


@pytest.mark.parametrize(
    ("sizes", "layout", "field", "words"),
    [
        ({"micro": 2, "total": 25}, ParallelLayout(dp=3), "global_batch_size", "global_batch_size=24"),
        ({"micro": 2, "total": 1}, ParallelLayout(), "global_batch_size", "global_batch_size=2"),
        ({"micro": 0, "total": 1}, ParallelLayout(), "micro_batch_size", "at least 1"),
        ({"micro": 1, "total": 0}, ParallelLayout(), "global_batch_size", "at least 1"),
        ({"micro": 1, "total": 6}, ParallelLayout(pp=4, vpp=2), "global_batch_size", "global_batch_size=8"),
        ({"micro": 1, "total": 10}, ParallelLayout(pp=4, vpp=2, dp=2), "global_batch_size", "=16"),
        # Micro-batches are counted, not samples: 8 samples are two micro-batches of one replica.
        ({"micro": 4, "total": 8}, ParallelLayout(pp=4, vpp=2), "global_batch_size", "=16"),
        ({"micro": 1, "total": 8}, ParallelLayout(pp=4, vpp=2, dp=4), "global_batch_size", "=16"),
    ],
)
def test_batches_that_do_not_divide_are_refused(
    sizes: dict[str, int], layout: ParallelLayout, field: str, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_batches(config(**sizes), layout)
    assert caught.value.field == f"model.{field}"
    assert words in caught.value.fix + caught.value.required


def test_plain_pipeline_takes_any_number_of_micro_batches() -> None:
    assert resolve_batches(config(micro=1, total=6), ParallelLayout(pp=4)) == 6


@pytest.mark.parametrize(
    ("length", "layout"),
    [
        (4095, ParallelLayout()),
        (4095, ParallelLayout(tp=5)),  # without sequence parallelism the sequence is whole
        (4096, ParallelLayout(tp=4, sequence_parallel=True)),
        (24, ParallelLayout(cp=4)),
        (48, ParallelLayout(tp=6, cp=4, sequence_parallel=True)),
        (16, ParallelLayout(tp=2, cp=8, sequence_parallel=True)),
    ],
)
def test_sequences_that_divide(length: int, layout: ParallelLayout) -> None:
    check_sequence(length, layout)


@pytest.mark.parametrize(
    ("length", "layout", "unit"),
    [
        (4095, ParallelLayout(tp=2, sequence_parallel=True), 2),
        (4098, ParallelLayout(tp=4, sequence_parallel=True), 4),
        (4100, ParallelLayout(cp=4), 8),
        # Divides by 2 · CP, but a rank's 10 tokens do not divide by 4.
        (20, ParallelLayout(tp=4, cp=2, sequence_parallel=True), 8),
        # Divides by CP · TP, but not into front and back chunks for 2 ranks.
        (18, ParallelLayout(tp=3, cp=2, sequence_parallel=True), 12),
    ],
)
def test_sequences_that_do_not(length: int, layout: ParallelLayout, unit: int) -> None:
    with pytest.raises(ConfigError, match=f"a multiple of {unit} ") as caught:
        check_sequence(length, layout)
    assert caught.value.field == "model.encoder_seq_length"
    assert f"={length // unit * unit}," in caught.value.fix
