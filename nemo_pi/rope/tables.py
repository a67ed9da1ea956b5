"""From an extension to numbers: inverse frequencies, attention factor, cosines and sines.

Shapes: B sequences, S tokens, F = rotary_dim / 2 frequencies.

Precision: an angle is position × inverse frequency. Both fit 24 bits, so their product is exact in float64,
but as an fp32 number near 10⁷ rad it would be off by up to half a radian. Cosine and sine are therefore taken
of the exact product and rounded once, to fp32: at any position up to 2²⁴ they lie within one rounding of the
truth for this fp32 inverse frequency. transformers multiplies in fp32; the two differ by its rounding of
the angle, half a unit in the last place (2e-4 rad at 4,096; 4e-3 at 131,072).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nemo_pi.rope.methods.registry import BUILT_IN, PLUG_INS
from nemo_pi.rope.spec import ContextExtension


def inverse_frequencies(
    spec: ContextExtension, seq_len: int | None = None, device: torch.device | str | None = None
) -> Tensor:
    """Radians per token of each rotated pair.

    Args:
        spec: the extension.
        seq_len: tokens of the longest sequence being read, for methods that depend on it. None means that
            none is longer than the original window.
        device: where the result shall live. It is computed on the CPU in any case, so that every rank and
            every reader of the checkpoint holds the same bits.

    Returns:
        fp32 [rotary_dim / 2].
    """
    return _on_cpu(spec, seq_len).to(device=device)


def _on_cpu(spec: ContextExtension, seq_len: int | None) -> Tensor:
    with torch.device("cpu"):  # not whatever default device the caller has set
        if type(spec.scaling) is BUILT_IN.get(spec.method):
            return spec.scaling.inverse_frequencies(spec.numbers, seq_len)
        # Another package's: what is wrong there would show late, or only as a model that does not learn.
        required = f"inverse frequencies in fp32 of shape [{spec.numbers.num_frequencies}] from {spec.method}"
        with PLUG_INS.blamed(spec.method, required, "method"):
            inverse_F = spec.scaling.inverse_frequencies(spec.numbers, seq_len)
            kind = inverse_F.dtype, tuple(inverse_F.shape)
    if kind != (torch.float32, (spec.numbers.num_frequencies,)):
        raise PLUG_INS.broken(spec.method, required, f"{kind[0]} of shape {list(kind[1])}", "method")
    return inverse_F


def attention_factor(spec: ContextExtension, seq_len: int | None = None) -> float:
    """The number multiplied into cos and sin, so that q·k grows by its square; 1 for most methods.

    No method known today makes it depend on seq_len; callers pass it all the same, so that one which does
    needs no new signature.
    """
    if type(spec.scaling) is BUILT_IN.get(spec.method):
        return spec.scaling.attention_scaling(spec.numbers, seq_len)
    required = f"an attention factor above 0 from {spec.method}"
    with PLUG_INS.blamed(spec.method, required, "method"):
        factor = float(spec.scaling.attention_scaling(spec.numbers, seq_len))
    if not 0 < factor < math.inf:
        raise PLUG_INS.broken(spec.method, required, repr(factor), "method")
    return factor


def same_frequencies(spec: ContextExtension, first_len: int, second_len: int) -> bool:
    """Whether sequences of these two lengths, in tokens, are rotated alike in all layers, bit for bit."""
    if first_len == second_len or not spec.depends_on_length:
        return True
    return all(
        torch.equal(_on_cpu(kind, first_len), _on_cpu(kind, second_len))
        and attention_factor(kind, first_len) == attention_factor(kind, second_len)
        for kind in spec.kinds
    )


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
