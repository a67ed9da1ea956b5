"""The shape of a GPT: every size that its parameters follow from, and nothing about positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

MOST = 2**31 - 1
"""The largest size of anything; no tensor of a model has a longer side, and floats can still count it."""
MOST_LAYERS = 2**16
"""Far more than any model has: lists with an entry for each layer are made before weights are looked at."""
MOST_HEAD_DIM = 2**16
"""Channels of a head, of which models have 512 at most: a plan computes the frequencies of half as many."""
MOST_OF: Mapping[str, int] = {"num_layers": MOST_LAYERS, "head_dim": MOST_HEAD_DIM}
"""The largest value of the fields that are bounded more tightly."""


def _fits(value: Any, kind: str) -> bool:
    """Whether JSON's value can be one of a field's annotated type."""
    options = [option.strip() for option in kind.split("|")]
    if value is None or isinstance(value, bool | str):
        return type(value).__name__.replace("NoneType", "None") in options
    if isinstance(value, int):
        return ("int" in options or "float" in options) and 0 <= value <= MOST
    if isinstance(value, float):
        return "float" in options and 0 < value < float("inf")
    if isinstance(value, list | tuple) and "tuple[int, ...]" in options:
        return len(value) <= MOST_LAYERS and all(type(item) is int for item in value)
    return not _are_plain(options)


def _are_plain(options: list[str]) -> bool:
    """Whether a field holds plain values alone."""
    return set(options) <= {"int", "float", "bool", "str", "None", "tuple[int, ...]"}


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder, and what differs between checkpoints of one family; the family knows the rest."""

    num_layers: int
    """Transformer layers."""
    hidden_size: int
    """Width of the residual stream."""
    ffn_hidden_size: int
    """Width of the MLP's hidden layer (of one of its two halves, where it is gated)."""
    num_attention_heads: int
    """Query heads."""
    num_query_groups: int
    """Key/value heads; equal to num_attention_heads without grouped-query attention."""
    head_dim: int
    """Channels of one head (Megatron: kv_channels)."""
    vocab_size: int
    """Rows of the embedding as they are stored, those beyond the tokenizer's included; never padded."""
    norm_epsilon: float = 1e-5
    """The norms' epsilon."""
    tied_embeddings: bool = False
    """Whether the output layer is the embedding."""
    family: str = "llama"
    """Name of the family in nemo_pi.families.registry: Hugging Face's model_type."""
    sliding_window: int | None = None
    """Tokens each query may look back, itself included; None means full attention."""
    full_attention_layers: tuple[int, ...] = ()
    """Layers, counted from 0, that attend to everything although the others have a sliding window."""
    unrotated_layers: tuple[int, ...] = ()
    """Layers, counted from 0, whose queries and keys are not rotated: they see no positions (NoPE)."""
    qkv_bias: bool = False
    """Whether query, key and value projections add biases."""
    qk_norm: bool = False
    """Whether query and key are normalised before they are rotated: head by head, unless the family says
    otherwise."""
    proj_bias: bool = False
    """Whether attention's output projection adds a bias."""
    mlp_bias: bool = False
    """Whether the MLP's projections add biases."""
    activation: str = "silu"
    """The MLP's function: one of nemo_pi.kernels.activation.FUNCTIONS."""
    parallel_residual: bool = False
    """Whether attention and MLP read the same residual and are added to it together."""
    embedding_multiplier: float = 1.0
    """Times the embedding, before the first layer."""
    attention_multiplier: float | None = None
    """Times the products of queries and keys; None means 1/√head_dim."""
    residual_multiplier: float = 1.0
    """Times what attention and MLP return, before it is added to the residual stream."""
    logits_scaling: float = 1.0
    """Divides the logits."""

    def window_of(self, layer: int) -> int | None:
        """The sliding window of a layer counted from 0; None means full attention."""
        return None if layer in self.full_attention_layers else self.sliding_window

    @property
    def sliding_layers(self) -> tuple[int, ...]:
        """Layers, counted from 0, that have a sliding window."""
        return tuple(layer for layer in range(self.num_layers) if self.window_of(layer) is not None)

    def vocab_rows(self, tp: int) -> int:
        """Rows of the vocabulary on each of `tp` tensor-parallel ranks: as many on all of them, so that the
        last ones may be padding."""
        return -(-self.vocab_size // tp)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready copy."""
        values = asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelShape:
        """The inverse of to_dict; keys it does not know are ignored, absent ones are off (older files).

        Raises:
            TypeError: a value of another type, or a size that no model has.
        """
        known = {field.name: str(field.type) for field in fields(cls)}
        given = {key: value for key, value in values.items() if key in known}
        for key, value in given.items():
            too_many = key in MOST_OF and not (isinstance(value, int) and 1 <= value <= MOST_OF[key])
            if too_many or not _fits(value, known[key]):
                raise TypeError(f"{key}: {type(value).__name__} {str(value)[:40]}, which no model has")
            given[key] = tuple(value) if isinstance(value, list) else value  # layers, which JSON makes lists
        return cls(**given)
