"""What the demo compares: each method is a handful of overrides of the same YAML."""

from __future__ import annotations

from dataclasses import dataclass

# Tokens of the bundled model's window, and of the extended one.
WINDOW, TARGET = 512, 4096


@dataclass(frozen=True)
class Stage:
    """One stage of a method's training: what its samples are."""

    window: int
    """Tokens of a sample, which passkey blocks are made to fit."""
    rows: int
    """Samples of an optimizer step; they are one forward pass."""
    own_keys: tuple[str, ...] = ()
    """Further keys of this stage, `key: value` each."""
    share: float = 1.0
    """Of the method's steps; a method's stages come to 1."""
    passkey_share: float = 0.5
    """Of its samples, those that ask for pass keys: a few hundred steps hold too few questions otherwise."""
    mostly_short_keys: bool = False
    """Whether most pass keys are asked for within the base model's window: many questions in few tokens."""

    first_key_length: int | None = None
    """Tokens of the shortest document drawn first in a passkey block, its key early; None: no such ones."""

    @property
    def data_name(self) -> str:
        """Name of the folder with what it reads."""
        return f"data_{self.window}{'_short_keys' if self.mostly_short_keys else ''}"

    def keys(self) -> tuple[str, ...]:
        """Its keys of an entry of `stages` that say what samples are, and how it learns from them."""
        return (
            f"encoder_seq_length: {self.window}",
            f"global_batch_size: {self.rows}",
            f"micro_batch_size: {self.rows}",
            *self.own_keys,
        )


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
    stages: tuple[Stage, ...]
    """Stages of its run, each from the weights that the one before it left."""

    @property
    def untrained_title(self) -> str:
        """What the report calls the base weights under this scaling, whatever samples train them."""
        return f"{self.title.partition(',')[0]}, untrained"

    def steps_of_stages(self, steps: int) -> list[int]:
        """How many of `steps` each stage takes; rounding falls to the last."""
        counts = [int(steps * stage.share) for stage in self.stages[:-1]]
        return [*counts, steps - sum(counts)]


# Scaling changes what queries and keys meet; all other weights know their work, and a rate that they do not
# need takes some of it away (docs/pose.md).
ATTENTION_FIRST = "optim.lr_multipliers: {attention_qkv: 10}"
# First samples as long as the base model's window, whose positions skip through the target: there attention
# that interpolation has blunted is sharpened soonest. Then whole ones, where a key is one of 4,096 tokens.
SHORT_THEN_LONG = (
    Stage(
        WINDOW,
        rows=20,
        own_keys=("pose: paper", "optim.lr: 2.0e-4", "optim.sched.min_lr: 6.0e-5", ATTENTION_FIRST),
        share=0.75,
        passkey_share=0.75,
    ),
    Stage(
        TARGET,
        rows=2,
        own_keys=("optim.lr: 7.0e-5", "optim.sched.warmup_steps: 5", ATTENTION_FIRST),
        share=0.25,
        passkey_share=0.75,
        first_key_length=TARGET // 2,
    ),
)
POSITION_INTERPOLATION = Method("pi", "PI", (), before_training=True, stages=SHORT_THEN_LONG)
COMPARED = (
    Method(
        "direct",
        "direct fine-tuning",
        ("model.pos_scaling_type=none", "model.pos_scaling_factor=1.0"),
        before_training=False,
        stages=SHORT_THEN_LONG,
    ),
    Method("ntk", "NTK-aware", ("model.pos_scaling_type=ntk",), before_training=True, stages=SHORT_THEN_LONG),
    Method("yarn", "YaRN", ("model.pos_scaling_type=yarn",), before_training=True, stages=SHORT_THEN_LONG),
)


def _sampler(key: str, title: str, stage: Stage, before_training: bool = False) -> Method:
    return Method(key, title, (), before_training, stages=(stage,))


# As many tokens a step at full length and in samples as long as the base model's window.
SAMPLERS = (
    _sampler("pi-full", "PI, full length", Stage(TARGET, 1, mostly_short_keys=True), before_training=True),
    _sampler("pi-pose", "PI, PoSE", Stage(WINDOW, 8, ("pose: paper",))),
    _sampler("pi-random", "PI, randomised positions", Stage(WINDOW, 8, ("pose: random",))),
)
