"""Cosines and sines of rotary angles, from position ids.

Shapes: B sequences, S tokens, F = rotary_dim / 2 frequencies.

Precision: an angle is position × inverse frequency. Both fit 24 bits, so their product is exact in float64,
but as an fp32 number near 10⁷ rad it would be off by up to half a radian. Cosine and sine are therefore taken
of the exact product and rounded once, to fp32: at any position up to 2²⁴ they lie within one rounding of the
truth for this fp32 inverse frequency. transformers multiplies in fp32; the two differ by its rounding of
the angle, half a unit in the last place (2e-4 rad at 4,096; 4e-3 at 131,072).
"""

from __future__ import annotations

import torch
from torch import Tensor

from nemo_pi.rope.frequencies import attention_factor, inverse_frequencies
from nemo_pi.rope.spec import ContextExtension


@torch.no_grad()
def rotary_cos_sin(
    spec: ContextExtension, position_ids_BS: Tensor, seq_len: int | None = None
) -> tuple[Tensor, Tensor]:
    """Tables for rotating q and k at the given positions.

    Args:
        spec: the extension.
        position_ids_BS: whole-number positions of any shape, on any device that has float64.
        seq_len: tokens of the longest sequence being read, for the methods that depend on it; None takes the
            largest position plus one. A rank that holds only a slice of the sequence must pass it.

    Returns:
        cos_BSF, sin_BSF: fp32, with the attention factor folded in.

    Raises:
        TypeError: for floating positions, which would already have been rounded (bf16 beyond 256).
    """
    if position_ids_BS.is_floating_point():
        raise TypeError(f"position ids must be whole numbers; got {position_ids_BS.dtype}")
    if seq_len is None and spec.depends_on_length and position_ids_BS.numel():
        seq_len = int(position_ids_BS.max()) + 1
    inverse_F = inverse_frequencies(spec, seq_len, device=position_ids_BS.device)
    angle_BSF = position_ids_BS[..., None].double() * inverse_F.double()
    factor = attention_factor(spec, seq_len)
    return (angle_BSF.cos() * factor).float(), (angle_BSF.sin() * factor).float()
