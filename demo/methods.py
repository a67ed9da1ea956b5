"""What the demo compares: each method is a handful of overrides of the same YAML."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """One row of the report, or two where it is measured before training as well."""

    key: str
    """Name of its folders."""
    title: str
    """What the report calls it."""
    overrides: tuple[str, ...]
    """Hydra overrides that choose it."""
    before_training: bool
    """Whether it is also measured with the base model's weights as they are."""
    window: int = 4096
    """Tokens of a training sample, which passkey blocks are made to fit."""


POSITION_INTERPOLATION = Method("pi", "PI", (), before_training=True)
COMPARED = (
    Method(
        "direct",
        "direct fine-tuning",
        ("model.pos_scaling_type=none", "model.pos_scaling_factor=1.0"),
        before_training=False,
    ),
    Method("ntk", "NTK-aware", ("model.pos_scaling_type=ntk",), before_training=True),
    Method("yarn", "YaRN", ("model.pos_scaling_type=yarn",), before_training=True),
)
# Samples as long as the base model's window, and as many tokens a step as at full length.
_SHORT_SAMPLES = ("model.global_batch_size=8", "model.micro_batch_size=8")
SKIPPING = (
    Method("pose", "PoSE PI", ("pose=paper", *_SHORT_SAMPLES), before_training=False, window=512),
    Method(
        "randomised",
        "randomised positions PI",
        ("pose=random", *_SHORT_SAMPLES),
        before_training=False,
        window=512,
    ),
)
