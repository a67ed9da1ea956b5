"""Shapes into JSON and back, from older and newer manifests too."""

from __future__ import annotations

import json

from nemo_pi.families.shape import ModelShape

SHAPE = ModelShape(
    num_layers=4,
    hidden_size=64,
    ffn_hidden_size=80,
    num_attention_heads=8,
    num_query_groups=4,
    head_dim=16,
    vocab_size=96,
    family="qwen2",
    sliding_window=8,
    full_attention_layers=(0, 1),
    qkv_bias=True,
)


def test_there_and_back_through_json() -> None:
    assert ModelShape.from_dict(json.loads(json.dumps(SHAPE.to_dict()))) == SHAPE


def test_a_manifest_of_0_1_opens() -> None:
    """Its fields, as that version wrote them, and one that a later version may add."""
    written = {
        "num_layers": 4,
        "hidden_size": 64,
        "ffn_hidden_size": 80,
        "num_attention_heads": 8,
        "num_query_groups": 4,
        "head_dim": 16,
        "vocab_size": 96,
        "norm_epsilon": 1e-6,
        "tied_embeddings": True,
        "family": "mistral",
        "sliding_window": 8,
        "of_tomorrow": 1,
    }
    shape = ModelShape.from_dict(written)
    assert (shape.family, shape.sliding_window, shape.norm_epsilon) == ("mistral", 8, 1e-6)
    assert (shape.qkv_bias, shape.qk_norm, shape.full_attention_layers) == (False, False, ())


def test_layers_may_have_windows_or_not() -> None:
    assert [SHAPE.window_of(layer) for layer in range(4)] == [None, None, 8, 8]
