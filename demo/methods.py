"""What the demo compares: each method is a handful of overrides of the same YAML."""

from __future__ import annotations

from dataclasses import dataclass

# Tokens of the bundled model's window, and of the extended one.
WINDOW, TARGET = 512, 4096


@dataclass(frozen=True)
class Method:
    """One row of the report, or two where it is measured before training as well."""

    key: str
    """Name of its folders."""
    title: str
    """What the report calls it."""
    overrides: tuple[str, ...]
    """Hydra overrides that choose it, beside its samples."""
    before_training: bool
    """Whether it is also measured with the base model's weights as they are."""
    window: int
    """Tokens of a training sample, which passkey blocks are made to fit."""
    rows: int
    """Samples of an optimizer step."""

    @property
    def untrained_title(self) -> str:
        """What the report calls the base weights under this scaling, whatever samples train them."""
        return f"{self.title.partition(',')[0]}, untrained"

    def sample_overrides(self) -> tuple[str, ...]:
        """Hydra overrides for its samples; the rows of a step are one forward pass."""
        return (
            f"model.encoder_seq_length={self.window}",
            f"model.global_batch_size={self.rows}",
            f"model.micro_batch_size={self.rows}",
        )


def _skipping(key: str, title: str, *overrides: str, before_training: bool = True) -> Method:
    """A method on samples as long as the base model's window, whose positions skip through the target (PoSE).

    Full-length samples of as much time hold four sevenths of the tokens, and teach a small model less.
    """
    overrides = ("pose=paper", "model.optim.lr=1.0e-3", *overrides)
    return Method(key, title, overrides, before_training, window=WINDOW, rows=14)


POSITION_INTERPOLATION = _skipping("pi", "PI")
COMPARED = (
    _skipping(
        "direct",
        "direct fine-tuning",
        "model.pos_scaling_type=none",
        "model.pos_scaling_factor=1.0",
        before_training=False,
    ),
    _skipping("ntk", "NTK-aware", "model.pos_scaling_type=ntk"),
    _skipping("yarn", "YaRN", "model.pos_scaling_type=yarn"),
)
# As many tokens a step at full length and in samples as long as the base model's window.
SAMPLERS = (
    Method("pi-full", "PI, full length", (), before_training=True, window=TARGET, rows=1),
    Method("pi-pose", "PI, PoSE", ("pose=paper",), before_training=False, window=WINDOW, rows=8),
    Method("pi-random", "PI, randomised positions", ("pose=random",), False, window=WINDOW, rows=8),
)
