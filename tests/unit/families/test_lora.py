"""Where adapters are, and what is trained, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nemo_pi.families.lora import CANONICAL, LINEARS, Lora, adapter_rules, num_adapted, num_trained
from nemo_pi.families.shape import ModelShape

SHAPE = ModelShape(2, 64, 80, 4, 2, 16, 96)
LORA = Lora(dim=4, alpha=8.0, linears=LINEARS)


def test_nemo_s_variant_has_one_a_for_each_fused_layer() -> None:
    qkv, proj, fc1, fc2 = adapter_rules(LORA, SHAPE)
    assert [one.num_sources for one in (qkv, proj, fc1, fc2)] == [1, 1, 1, 1]
    assert qkv.a.sizes(SHAPE) == ((4, 64),) and qkv.b.sizes(SHAPE) == ((64, 4), (32, 4), (32, 4))
    assert (qkv.b.split_dim, qkv.a.split_dim, proj.b.split_dim, proj.a.split_dim) == (0, None, None, 1)
    assert fc2.a.sizes(SHAPE) == ((4, 80),) and fc1.stacked and not qkv.stacked


def test_the_canonical_variant_has_one_for_each_stored_tensor() -> None:
    rules = adapter_rules(replace(LORA, variant=CANONICAL), SHAPE)
    assert [one.num_sources for one in rules] == [3, 1, 2, 1]
    assert rules[0].a.huggingface[1].endswith("k_proj.lora_A.weight")
    fused = adapter_rules(replace(LORA, variant=CANONICAL), replace(SHAPE, family="phi3"))
    assert [one.num_sources for one in fused] == [1, 1, 1, 1]


def test_counts() -> None:
    each = 4 * (64 + 128) + 4 * (64 + 64) + 4 * (64 + 160) + 4 * (80 + 64)
    assert num_adapted(LORA, SHAPE) == num_trained(LORA, SHAPE) == 2 * each
    assert num_adapted(LORA, SHAPE, layers=1, tp=2) == 4 * (64 + 64) + 4 * (32 + 64) + 4 * (64 + 80) + 4 * (
        40 + 64
    )
    more = replace(LORA, embeddings_and_norms=True)
    assert num_trained(more, SHAPE) == 2 * each + 96 * 64 + 5 * 64


def test_comes_back_from_a_manifest() -> None:
    lora = Lora(3, 1.5, LINEARS[:2], CANONICAL, 0.1, "kaiming", True, 5)
    assert Lora.from_dict(lora.to_dict()) == lora


@pytest.mark.parametrize(
    "damage",
    [{"dim": 0}, {"dim": True}, {"alpha": float("nan")}, {"linears": ["x"]}, {"linears": []}, {"more": 1}]
    + [{"dropout": 1.0}, {"variant": "x"}, {"init": None}, {"seed": "1"}, {"embeddings_and_norms": 1}],
    ids=str,
)
def test_a_damaged_one_is_refused(damage: dict[str, object]) -> None:
    with pytest.raises(TypeError):
        Lora.from_dict({**LORA.to_dict(), **damage})
