"""Shapes that are trained, all of Llama's architecture with untied embeddings and random weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nemo_pi.families.shape import ModelShape


@dataclass(frozen=True)
class Size:
    """A model and the window it was, as far as anyone is concerned, pretrained at."""

    name: str
    """As on the command line and in tables: layers x hidden, or the model it is the shape of."""
    shape: ModelShape
    """Sizes of the model."""
    window: int
    """Original window in tokens; longer samples interpolate positions from it."""


def yaml_keys(shape: ModelShape) -> dict[str, Any]:
    """The keys of `model` that build this shape without a checkpoint."""
    names = ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups")
    return {name: getattr(shape, name) for name in (*names, "vocab_size")}


def _size(
    name: str, layers: int, hidden: int, heads: int, ffn: int, vocab: int, window: int, groups: int = 0
) -> Size:
    shape = ModelShape(
        num_layers=layers,
        hidden_size=hidden,
        ffn_hidden_size=ffn,
        num_attention_heads=heads,
        num_query_groups=groups or heads,
        head_dim=hidden // heads,
        vocab_size=vocab,
    )
    return Size(name, shape, window)


SIZES = {
    size.name: size
    for size in (
        _size("2x64", 2, 64, 2, 176, 256, 32),
        # The bundled demo model's sizes, and one with Llama's vocabulary.
        _size("4x256", 4, 256, 4, 688, 2048, 1024),
        _size("8x512", 8, 512, 8, 1376, 32000, 1024),
        _size("llama-7b", 32, 4096, 32, 11008, 32000, 2048),
        _size("llama-3-8b", 32, 4096, 32, 14336, 128256, 8192, groups=8),
    )
}
