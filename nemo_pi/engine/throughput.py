"""Work and speed of a training step."""

from __future__ import annotations

from nemo_pi.arch.shape import ModelShape


def training_flops_per_token(shape: ModelShape, sequence_length: int) -> float:
    """Floating-point operations of forward and backward for one token, recomputation not counted.

    Matrix products count 2 operations per weight forward and 4 backward; the embedding look-up counts
    none. Attention is counted causal: a token attends to half of the sequence on average.

    Args:
        shape: sizes of the model.
        sequence_length: training length in tokens.
    """
    norms = 2 * shape.hidden_size
    weights = shape.num_layers * (shape.parameters_per_layer - norms)
    weights += shape.hidden_size * shape.vocab_size
    keys = sequence_length / 2
    if shape.sliding_window is not None:
        keys = min(keys, shape.sliding_window)
    attention = 2 * shape.num_layers * shape.num_attention_heads * shape.head_dim * keys
    return 6.0 * (weights + attention)
