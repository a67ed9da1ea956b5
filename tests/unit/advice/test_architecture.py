"""What is known to make a model hard to extend."""

from __future__ import annotations

from dataclasses import replace

from nemo_pi.advice.architecture import traits, verdict
from nemo_pi.families.shape import ModelShape

LLAMA_2 = ModelShape(32, 4096, 11008, 32, 32, 128, 32000)
OLMO_3 = replace(
    LLAMA_2, family="olmo3", qk_norm=True, sliding_window=4096, full_attention_layers=tuple(range(3, 32, 4))
)


def found(shape: ModelShape, window: int) -> list[bool]:
    return [trait.found for trait in traits(shape, window)]


def test_each_property_is_read_from_the_shape() -> None:
    assert found(LLAMA_2, 8192) == [False, False, False, False]
    assert found(LLAMA_2, 4096) == [False, False, False, True]
    assert found(replace(LLAMA_2, num_query_groups=8), 8192) == [False, True, False, False]
    assert found(OLMO_3, 8192) == [True, False, True, False]
    assert found(replace(LLAMA_2, family="qwen3", qk_norm=True), 32768)[0]


def test_evidence_has_the_numbers() -> None:
    evidence = [trait.evidence for trait in traits(replace(OLMO_3, num_query_groups=8), 4096)]
    assert evidence == ["qk-norm", "32 query heads share 8", "24 of 32 layers, 4,096 tokens", "4,096 tokens"]


def test_three_together_are_a_warning() -> None:
    assert "47%" in verdict(traits(replace(OLMO_3, num_query_groups=8), 8192))
    assert "little" in verdict(traits(LLAMA_2, 4096))
    assert verdict(traits(LLAMA_2, 8192)) == "None of the 4 makes it harder"
