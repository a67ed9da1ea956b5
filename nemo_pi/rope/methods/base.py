"""What a scaling method is: an object that takes numbers and owns everything that is particular to it.

Shapes: F = rotary_dim / 2 frequencies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from nemo_pi.errors import ConfigError
from nemo_pi.rope.fields import ELSEWHERE
from nemo_pi.rope.methods.candidates import Candidate
from nemo_pi.rope.methods.hf_rope import HfRope
from nemo_pi.rope.validation import check_number, did_you_mean

Self = TypeVar("Self", bound="ScalingMethod")


@dataclass(frozen=True)
class RopeNumbers:
    """The numbers of an extension that a method computes with; all checked before a method sees them."""

    original_window: int
    """Tokens the model was pretrained to read (L)."""
    target_window: int
    """Tokens it shall read (L')."""
    factor: float
    """How many times longer (s), at least 1."""
    base: float
    """RoPE's base b before any scaling."""
    head_dim: int
    """Channels of one attention head."""
    rotary_percent: float
    """Share of them that is rotated, in (0, 1]."""

    @property
    def rotary_dim(self) -> int:
        """Rotated channels of one head (D), rounded down as Hugging Face does; even."""
        return int(self.head_dim * self.rotary_percent)

    @property
    def num_frequencies(self) -> int:
        """Rotated pairs of one head (F)."""
        return self.rotary_dim // 2


@dataclass(frozen=True)
class ScalingMethod:
    """One way of extending a window; its fields are the arguments that it takes besides the factor.

    A subclass is a frozen dataclass. It must name itself and say its inverse frequencies; everything else has
    an answer here that fits a method whose factor is the ratio of the windows. A field is a finite number
    unless it says otherwise (see nemo_pi.rope.methods.arguments); None means "not given".
    """

    name: ClassVar[str]
    """What the YAML calls it (pos_scaling_type)."""
    also_called: ClassVar[tuple[str, ...]] = ()
    """Other names that people try; they are refused with this one offered."""
    title: ClassVar[str] = ""
    """What the plan calls it; empty: its name."""
    formula: ClassVar[str] = ""
    """What pair j turns by per token, for the table in docs/methods.md."""
    cos_sin_times: ClassVar[str] = "1"
    """What cosine and sine are multiplied by, for the same table."""
    source: ClassVar[str] = ""
    """Where it was published, for the same table."""
    training: ClassVar[str] = ""
    """What training it is known to need, with the source, for advice; empty: nothing is known."""
    factor_is_ratio: ClassVar[bool] = True
    """Whether factor × original window must be the target window."""
    depends_on_length: ClassVar[bool] = False
    """Whether the frequencies change with the length of the sequence being read."""
    min_rotary_dim: ClassVar[int] = 2
    """Rotated channels of a head that its formula needs at least."""
    hf_types: ClassVar[tuple[str, ...]] = ()
    """Its rope_type in Hugging Face's config (written: the first; read: all); none: it has no words there,
    and a run that shall export stops before it trains."""
    hf_states_original: ClassVar[bool] = True
    """Whether its entries there carry original_max_position_embeddings. A method that computes from it must
    say so: where it is missing, readers silently take the extended window."""

    starts_search: ClassVar[bool] = False
    """Whether a search for a factor of each frequency begins with this method's, among others."""

    @classmethod
    def argument_names(cls) -> tuple[str, ...]:
        """Names of its arguments, sorted."""
        return tuple(sorted(field.name for field in fields(cls)))

    @classmethod
    def build(cls: type[Self], given: Mapping[str, Any], rope: RopeNumbers) -> Self:
        """The method with checked arguments.

        Args:
            given: argument names to values as a YAML or a config.json holds them; None means "not given".
            rope: the numbers that they must fit.

        Raises:
            ConfigError: an unknown name, a missing one, or a value that is wrong alone or against another.
        """
        known = {field.name: field for field in fields(cls)}
        for name in given:
            if name not in known:
                _refuse_unknown(cls, name)
        checked = {}
        for name, value in given.items():
            if value is not None:
                check = known[name].metadata.get("check", _finite_number)
                checked[name] = check(f"extra_args.{name}", value, rope.num_frequencies)
        method = cls(**checked)
        method.check(rope)
        return method

    def arguments(self) -> tuple[tuple[str, Any], ...]:
        """(name, value) of every argument that has a value, sorted by name."""
        values = ((name, getattr(self, name)) for name in self.argument_names())
        return tuple((name, value) for name, value in values if value is not None)

    @classmethod
    def candidates(cls, rope: RopeNumbers) -> Sequence[Candidate]:
        """Arguments worth trying on a model that is to be extended, the likeliest first.

        Args:
            rope: the numbers of the extension that is asked for, its factor the ratio of the windows.
        """
        return (Candidate(),)

    def check(self, rope: RopeNumbers) -> None:
        """Refuses arguments that contradict each other or the numbers.

        Raises:
            ConfigError: naming `extra_args.NAME`, or another field of ContextExtension.
        """

    def inverse_frequencies(self, rope: RopeNumbers, seq_len: int | None) -> Tensor:
        """Radians per token of each rotated pair, fp32 [F] on the CPU.

        Args:
            rope: the numbers of the extension.
            seq_len: tokens of the longest sequence being read; None: none is longer than the original window.
        """
        raise NotImplementedError(f"{type(self).__name__} has no inverse_frequencies")

    def slowest(self, rope: RopeNumbers) -> tuple[float, float]:
        """(base, divisor) of its slowest frequency b^(-(D-2)/D) / divisor at the target window, which must be
        a normal fp32 number."""
        return rope.base, rope.factor

    def attention_scaling(self, rope: RopeNumbers, seq_len: int | None) -> float:
        """The number multiplied into cos and sin, so that q·k grows by its square."""
        return 1.0

    def is_scaled(self, rope: RopeNumbers) -> bool:
        """Whether positions are made otherwise than by plain RoPE."""
        return rope.factor != 1.0

    @classmethod
    def derived_factor(cls, original_window: int, target_window: int) -> float:
        """The factor where none is given."""
        return target_window / original_window

    def plan(self, rope: RopeNumbers) -> str:
        """Its line in the plan of a run."""
        return self.title or self.name

    def plan_notes(self, rope: RopeNumbers) -> list[tuple[str, str]]:
        """(label, text) of what a reader of the plan should know besides its arguments."""
        return []

    def to_hf(self, rope: RopeNumbers) -> dict[str, Any]:
        """Its `rope_parameters` in Hugging Face's config (rotary_percent is added to them).

        Raises:
            ConfigError: Hugging Face has no words for it.
        """
        if not self.hf_types:
            raise ConfigError(
                "method",
                required="a method that transformers can compute, for an export to Hugging Face's format",
                given=self.name,
                fix="keep the model as a distributed checkpoint and leave the export folder out",
            )
        entries: dict[str, Any] = {"rope_type": self.hf_types[0], "rope_theta": rope.base}
        entries["factor"] = rope.factor
        if self.hf_states_original:
            entries["original_max_position_embeddings"] = rope.original_window
        for name, value in self.arguments():
            entries[name] = list(value) if isinstance(value, tuple) else value
        return entries

    def to_hf_file(self, rope: RopeNumbers, entries: Mapping[str, Any]) -> dict[str, Any]:
        """What a config.json holds of `entries`, in the words that transformers 4.45 to 5 read alike.

        rope_parameters is newer: readers before transformers 5 ignore it, and 5 ignores it where rope_scaling
        stands beside it. A file therefore holds rope_theta and rope_scaling, and nothing twice.

        Args:
            rope: the numbers of the extension.
            entries: its `rope_parameters`, as to_hf returns them.
        """
        scaling = {name: value for name, value in entries.items() if name != "rope_theta"}
        file: dict[str, Any] = {"rope_theta": entries["rope_theta"]}
        if scaling != {"rope_type": "default"}:
            file["rope_scaling"] = scaling
        return file

    def hf_window(self, rope: RopeNumbers) -> int:
        """Its `max_position_embeddings` there."""
        return rope.target_window

    @classmethod
    def from_hf(cls, entries: HfRope) -> dict[str, Any]:
        """What its entries in a Hugging Face config say, as arguments of ContextExtension.build.

        Raises:
            CheckpointError: naming the entry that is missing or malformed.
        """
        windows = entries.windows(entries.stated_original() or entries.window, entries.factor())
        return {**windows, "extra_args": entries.among(cls.argument_names())}

    @classmethod
    def docs_row(cls) -> str:
        """Its row in the table of formulas in docs/methods.md."""
        return f"| `{cls.name}` | {cls.formula} | {cls.cos_sin_times} | {cls.source} |"


def _finite_number(field: str, value: Any, num_frequencies: int) -> float:
    return check_number(field, value)


def _refuse_unknown(method: type[ScalingMethod], name: str) -> None:
    names = method.argument_names()
    field = ELSEWHERE.get(name)
    fix = did_you_mean(name, names)
    if field is not None:
        fix = f"write {field if field in names else f'`{field}`'} instead"
    raise ConfigError(
        f"extra_args.{name}", required=f"a name that {method.name} knows", given=repr(name), fix=fix
    )
