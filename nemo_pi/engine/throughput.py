"""Work and speed of a training step."""

from __future__ import annotations

from nemo_pi.families.registry import family_of
from nemo_pi.families.shape import ModelShape


def training_flops_per_token(
    shape: ModelShape, sequence_length: int, *, frozen: bool = False, attention_span: int | None = None
) -> float:
    """Floating-point operations of forward and backward for one token, recomputation not counted.

    Matrix products count 2 operations per weight forward and 4 backward; the embedding look-up counts
    none. Attention is counted causal: a token attends to half of the sequence on average.

    Args:
        shape: sizes of the model.
        sequence_length: training length in tokens.
        frozen: whether weights have no gradients: 2 operations of the backward pass are saved for each.
        attention_span: tokens of a group, where attention is confined to groups; None: the whole sequence.
    """
    weights = shape.num_layers * family_of(shape).layer_products(shape)
    weights += shape.hidden_size * shape.vocab_size
    windows = [shape.window_of(layer) for layer in range(shape.num_layers)]
    seen = (attention_span or sequence_length) / 2
    keys = sum(min(seen, window or sequence_length) for window in windows)
    attention = 2 * shape.num_attention_heads * shape.head_dim * keys
    return (4.0 if frozen else 6.0) * weights + 6.0 * attention
