"""Inverse frequencies and attention factor of a context extension, whatever its method."""

from __future__ import annotations

import torch
from torch import Tensor

from nemo_pi.rope import dynamic, linear, llama3, longrope, ntk, plain, yarn
from nemo_pi.rope.spec import ContextExtension


def inverse_frequencies(
    spec: ContextExtension, seq_len: int | None = None, device: torch.device | str | None = None
) -> Tensor:
    """Radians per token of each rotated pair.

    Args:
        spec: the extension.
        seq_len: tokens of the longest sequence being read; only dynamic and longrope look at it. None means
            that none is longer than the original window.
        device: where the result shall live. It is computed on the CPU in any case, so that every rank and
            every reader of the checkpoint holds the same bits.

    Returns:
        fp32 [rotary_dim / 2].
    """
    return _on_cpu(spec, seq_len).to(device=device)


def _on_cpu(spec: ContextExtension, seq_len: int | None) -> Tensor:
    dim, base, factor, window = spec.rotary_dim, spec.base, spec.factor, spec.original_window
    extra = spec.extra_args
    with torch.device("cpu"):  # not whatever default device the caller has set
        if spec.method == "linear":
            return linear.inverse_frequencies(dim, base, factor)
        if spec.method == "ntk":
            return ntk.inverse_frequencies(dim, base, factor)
        if spec.method == "dynamic":
            return dynamic.inverse_frequencies(dim, base, factor, window, seq_len)
        if spec.method == "yarn":
            shape = {name: extra[name] for name in ("beta_fast", "beta_slow", "truncate") if name in extra}
            return yarn.inverse_frequencies(dim, base, factor, window, **shape)
        if spec.method == "llama3":
            return llama3.inverse_frequencies(dim, base, factor, window, **extra)
        if spec.method == "longrope":
            lists = extra["short_factor"], extra["long_factor"]
            return longrope.inverse_frequencies(dim, base, window, *lists, seq_len)
        return plain.inverse_frequencies(dim, base)


def attention_factor(spec: ContextExtension, seq_len: int | None = None) -> float:
    """The number multiplied into cos and sin, so that q·k grows by its square; 1 for most methods.

    An explicit `attention_factor` among the extra arguments wins over the formula. No method known today
    makes it depend on seq_len; callers pass it all the same, so that one which does needs no new signature.
    """
    extra = spec.extra_args
    if "attention_factor" in extra:
        return extra["attention_factor"]
    if spec.method == "yarn":
        return yarn.attention_factor(spec.factor, extra.get("mscale"), extra.get("mscale_all_dim"))
    if spec.method == "longrope":
        return longrope.attention_factor(spec.factor, spec.original_window)
    return 1.0


def same_frequencies(spec: ContextExtension, first_len: int, second_len: int) -> bool:
    """Whether sequences of these two lengths, in tokens, are rotated alike, bit for bit."""
    if first_len == second_len or not spec.depends_on_length:
        return True
    both = [(_on_cpu(spec, length), attention_factor(spec, length)) for length in (first_len, second_len)]
    return torch.equal(both[0][0], both[1][0]) and both[0][1] == both[1][1]
