"""The shape of a GPT: every size that its parameters follow from, and nothing about positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a Llama-like decoder (RMSNorm, SwiGLU, grouped-query attention, no biases)."""

    num_layers: int
    """Transformer layers."""
    hidden_size: int
    """Width of the residual stream."""
    ffn_hidden_size: int
    """Width of the SwiGLU hidden layer (of one of its two halves)."""
    num_attention_heads: int
    """Query heads."""
    num_query_groups: int
    """Key/value heads; equal to num_attention_heads without grouped-query attention."""
    head_dim: int
    """Channels of one head (Megatron: kv_channels)."""
    vocab_size: int
    """Rows of the embedding; never padded, so that import and export are bit-equal."""
    norm_epsilon: float = 1e-5
    """RMSNorm's epsilon."""
    tied_embeddings: bool = False
    """Whether the output layer is the embedding."""
    family: str = "llama"
    """Hugging Face architecture to export as: llama or mistral."""
    sliding_window: int | None = None
    """Tokens each query may look back (Mistral); None means full attention."""

    @property
    def parameters_per_layer(self) -> int:
        """Parameters of one transformer layer, its two norms included."""
        query = self.num_attention_heads * self.head_dim
        key_value = 2 * self.num_query_groups * self.head_dim
        attention = self.hidden_size * (query + key_value) + query * self.hidden_size
        return attention + 3 * self.hidden_size * self.ffn_hidden_size + 2 * self.hidden_size

    @property
    def num_parameters(self) -> int:
        """Parameters of the whole model."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied_embeddings else 2)
        return self.num_layers * self.parameters_per_layer + embeddings + self.hidden_size

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready copy."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelShape:
        """The inverse of to_dict; keys it does not know are ignored (older or newer files)."""
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})
