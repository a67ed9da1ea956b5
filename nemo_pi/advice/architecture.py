"""What is known to make a model hard to extend, read from its configuration.

OlmPool (Bertsch et al., 2026, openreview.net/forum?id=MRXATMdzeC, allenai.org/blog/olmpool): 26 models of 7
billion parameters that differ in architecture alone, pretrained alike and extended alike to 65,536 tokens.
Four choices cost long-context quality, little by themselves, up to 47% of the score where three or more come
together; neither loss nor short benchmarks show it.
"""

from __future__ import annotations

from dataclasses import dataclass

from nemo_pi.families.registry import family_of
from nemo_pi.families.shape import ModelShape
from nemo_pi.units import plural

SOURCE = "OlmPool (Bertsch et al. 2026, openreview.net/forum?id=MRXATMdzeC)"
SHORT_WINDOW = 8192
"""Below it, a pretraining window counts as short here: Llama 3, which extends easily, has as much."""


@dataclass(frozen=True)
class Trait:
    """One property of a model that its extension is known to depend on."""

    name: str
    """In a few words."""
    found: bool
    """Whether this model has it."""
    evidence: str
    """What its configuration says."""


def traits(shape: ModelShape, original_window: int) -> list[Trait]:
    """The four properties of OlmPool, as this model has them.

    Args:
        shape: of the model.
        original_window: tokens it was pretrained on.
    """
    normed = family_of(shape).layer_kind(shape).qk_norm
    heads, groups = shape.num_attention_heads, shape.num_query_groups
    sliding = shape.sliding_layers
    every = f"of {plural(shape.num_layers, 'layer')}"
    return [
        Trait("norms on queries and keys", normed, "qk-norm" if normed else "no qk-norm"),
        Trait(
            "fewer key and value heads than query heads",
            groups < heads,
            f"{plural(heads, 'query head')} share {groups}" if groups < heads else f"{heads} of each",
        ),
        Trait(
            "layers with a sliding window",
            bool(sliding),
            f"{len(sliding)} {every}, {shape.sliding_window:,} tokens" if sliding else f"none {every}",
        ),
        Trait("a short pretraining window", original_window < SHORT_WINDOW, f"{original_window:,} tokens"),
    ]


def verdict(found: list[Trait]) -> str:
    """What so many of them together mean."""
    count = sum(trait.found for trait in found)
    if count >= 3:
        return f"{count} of 4 make it harder: three or more together lost up to 47% of the long-context score"
    if count:
        return f"{count} of 4 make{'s' * (count == 1)} it harder: by one or two alone little was lost"
    return "None of the 4 makes it harder"
