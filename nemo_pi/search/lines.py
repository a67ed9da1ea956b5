"""The YAML of an extension by factors that a search has found."""

from __future__ import annotations

from collections.abc import Sequence

from nemo_pi.rope.spec import ContextExtension


def yaml_lines(extension: ContextExtension, comment: Sequence[str], *, rescales: bool) -> str:
    """Keys of `model` that train or convert with this LongRoPE extension, as a YAML of Hydra's group `rope`.

    Args:
        extension: by `longrope`.
        comment: lines that say where the factors come from.
        rescales: whether the checkpoint was scaled before, which has to be allowed.
    """
    lines = ["# @package model", *(f"# {line}" for line in comment)]
    # Whatever factor stands in the YAML that these lines come into: it follows from the windows.
    lines += [f"max_position_embeddings: {extension.target_window}", "pos_scaling_factor: null"]
    if rescales:
        lines.append("allow_rescaling: true")
    lines += [f"pos_scaling_type: {extension.method}", "pos_scaling_extra_args:"]
    for name in ("short_factor", "long_factor"):
        lines.append(f"  {name}: [{', '.join(f'{factor:.12g}' for factor in extension.extra_args[name])}]")
    return "\n".join(lines) + "\n"
