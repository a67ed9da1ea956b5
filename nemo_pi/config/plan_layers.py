"""The plan's rows about layers that are not rotated as the others are."""

from __future__ import annotations

from nemo_pi.families.shape import ModelShape
from nemo_pi.rope.spec import ContextExtension
from nemo_pi.units import grouped

_MOST_NAMED = 6


def layer_rows(shape: ModelShape, extension: ContextExtension) -> list[tuple[str, str]]:
    """Rows for layers with rotary embeddings of their own, for those without any, and for growing queries."""
    rows = []
    if (sliding := extension.sliding) is not None:
        what = sliding.scaling.plan(sliding.numbers) if sliding.is_scaled else "not scaled"
        by = f" by {sliding.factor:g}" if sliding.is_scaled else ""
        rows.append(
            ("sliding layers", f"{what}{by}, base {sliding.base:g}, {_share(shape.sliding_layers, shape)}")
        )
    if shape.unrotated_layers:
        rows.append(("not rotated", f"{_share(shape.unrotated_layers, shape)}, which see no positions"))
    if (scale := extension.query_scale) is not None:
        text = f"at position m times 1 + {scale.beta:g}·ln(1 + ⌊m ÷ {grouped(scale.window)}⌋)"
        rows.append(("queries", text))
    return rows


def _share(layers: tuple[int, ...], shape: ModelShape) -> str:
    """Which layers, as far as a line holds them, and of how many."""
    named = ", ".join(map(str, layers[:_MOST_NAMED])) + (", …" if len(layers) > _MOST_NAMED else "")
    return f"layers {named} ({len(layers)} of {shape.num_layers})"
