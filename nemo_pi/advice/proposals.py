"""What is tried on a checkpoint: every method's own candidates, each as the keys that a run would be given.

A candidate becomes an extension by the same way as a run's YAML does (`config.extension`), so that the lines
which advice prints are the ones that were measured.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from nemo_pi.checkpoint.summary import CheckpointSummary
from nemo_pi.config.extension import resolve_extension
from nemo_pi.config.schema import ModelConfig
from nemo_pi.errors import ConfigError, NemoPiError
from nemo_pi.rope.methods.base import RopeNumbers
from nemo_pi.rope.methods.candidates import Candidate
from nemo_pi.rope.methods.registry import BUILT_IN, PLUG_INS, UNSCALED, check_available
from nemo_pi.rope.spec import ContextExtension
from nemo_pi.rope.tables import attention_factor, inverse_frequencies
from nemo_pi.units import grouped


@dataclass(frozen=True)
class Proposal:
    """One way to read further, and how it is asked for."""

    method: str
    """Its name."""
    label: str
    """What tables call it; no two have the same."""
    source: str
    """Who chose these arguments, or why; may be empty."""
    training: str
    """What training the method is known to need; may be empty."""
    keys: Mapping[str, Any]
    """Keys of a run's `model` section."""
    extension: ContextExtension
    """What comes of them."""

    @property
    def overrides(self) -> list[str]:
        """The keys as a command line takes them, a word each, quoted for a shell where need be."""
        words = [f"model.{key}={_flow(value)}" for key, value in self.keys.items()]
        return [f"'{word}'" if set(word) & set("{[ ") else word for word in words]

    @property
    def yaml(self) -> str:
        """The keys as a YAML takes them."""
        return "\n".join(["model:", *(f"  {key}: {_flow(value)}" for key, value in self.keys.items())])


@dataclass(frozen=True)
class Asked:
    """What a user wants of a checkpoint."""

    target_window: int
    """Tokens it shall read."""
    original_window: int | None = None
    """Tokens it was pretrained on, where its own files are wrong. None: what they say."""
    allow_rescaling: bool = False
    """Whether a scaling that it has already may be replaced."""
    methods: Collection[str] | None = None
    """Names of the only methods to try. None: every registered one."""


def base_extension(summary: CheckpointSummary, asked: Asked) -> ContextExtension:
    """How the checkpoint reads as it is, up to the window that is asked for.

    Raises:
        ConfigError: it is scaled already and may not be rescaled, or the window is none that extends it.
    """
    found = summary.extension
    if found.is_scaled and not asked.allow_rescaling:
        raise ConfigError(
            str(summary.path),
            required="a checkpoint that is not scaled yet, unless its scaling may be replaced",
            given=f"{found.method} by {found.factor:g}, {found.original_window:,} → "
            f"{found.target_window:,} tokens",
            fix="add --allow-rescaling (factors then count from its original window), or give the model that "
            "it was made from",
        )
    plain = _plain(summary, asked, max(asked.target_window, asked.original_window or found.learned_window))
    original = plain.original_window
    if asked.target_window <= original:
        raise ConfigError(
            "--target-window",
            required=f"more than the {original:,} tokens that {summary.path} reads already",
            given=asked.target_window,
            fix=f"--target-window {8 * original} reads eight times as far",
        )
    return found if found.is_scaled else plain


def propose(summary: CheckpointSummary, asked: Asked) -> tuple[list[Proposal], list[str]]:
    """All that is worth trying, the first choice of each method before any second one; and what is left out.

    Args:
        summary: of the checkpoint.
        asked: windows and methods.

    Returns:
        Proposals whose positions all differ, and a line on each candidate that was left out.

    Raises:
        ConfigError: a method that does not exist.
    """
    names = [*BUILT_IN, *(name for name in PLUG_INS.names() if name not in BUILT_IN)]
    if asked.methods is not None:
        names = [_checked(name) for name in asked.methods]
    left_out: list[str] = []
    by_method = [_of_method(name, summary, asked, left_out) for name in names]
    kept: dict[tuple[Any, ...], Proposal] = {}
    for row in zip_longest(*by_method):
        for proposal in filter(None, row):
            same = kept.setdefault(_positions(proposal.extension), proposal)
            if same is not proposal:
                left_out.append(f"{proposal.label}: the same positions as {same.label}")
    return list(kept.values()), left_out


def _checked(name: str) -> str:
    try:
        return check_available(name).name
    except ConfigError as error:
        raise error.respelled({"method": "--methods"}) from error


def _of_method(name: str, summary: CheckpointSummary, asked: Asked, left_out: list[str]) -> list[Proposal]:
    """A method's candidates as far as they can be had; why others cannot is added to `left_out`."""
    try:
        method = check_available(name)
        candidates = method.candidates(_numbers(summary, asked))
    except NemoPiError as error:  # another package's, which is broken
        left_out.append(f"{name}: {error}")
        return []
    found = []
    for candidate in candidates:
        keys = _keys(name, candidate, asked)
        label = _label(name, candidate)
        try:
            extension = _resolved(summary, keys)
        except NemoPiError as error:
            left_out.append(f"{label}: {error}")
            continue
        if not extension.is_scaled:
            label = f"{label} (as it is)"
        found.append(Proposal(name, label, candidate.source, method.training, keys, extension))
    return found


def _numbers(summary: CheckpointSummary, asked: Asked) -> RopeNumbers:
    found, plain = summary.extension, _plain(summary, asked, asked.target_window)
    factor = plain.target_window / plain.original_window
    return RopeNumbers(
        plain.original_window, plain.target_window, factor, found.base, found.head_dim, found.rotary_percent
    )


def _plain(summary: CheckpointSummary, asked: Asked, target_window: int) -> ContextExtension:
    """Plain positions up to a window.

    Raises:
        ConfigError: an original window that the checkpoint contradicts.
    """
    keys = {**_common(asked, target_window), "pos_scaling_type": UNSCALED, "pos_scaling_factor": 1.0}
    try:
        return _resolved(summary, keys)
    except ConfigError as error:
        if asked.original_window is None:
            raise
        raise ConfigError(
            "--original-window",
            required=error.required,
            given=asked.original_window,
            fix="leave it out; where the checkpoint is wrong, add --allow-rescaling to count from yours",
        ) from error


def _common(asked: Asked, target_window: int) -> dict[str, Any]:
    keys: dict[str, Any] = {"max_position_embeddings": target_window}
    if asked.original_window is not None:
        keys["original_max_position_embeddings"] = asked.original_window
    if asked.allow_rescaling:
        keys["allow_rescaling"] = True
    return keys


def _keys(name: str, candidate: Candidate, asked: Asked) -> dict[str, Any]:
    """What a run's YAML would say."""
    target = round(asked.target_window * candidate.stretch)
    keys = {**_common(asked, target), "pos_scaling_type": name}
    if candidate.factor is not None:
        keys["pos_scaling_factor"] = float(candidate.factor)
    if candidate.arguments:
        keys["pos_scaling_extra_args"] = dict(candidate.arguments)
    if candidate.stretch != 1.0:
        # Samples need be no longer than what is asked for.
        keys["encoder_seq_length"] = asked.target_window
    return keys


def _resolved(summary: CheckpointSummary, keys: Mapping[str, Any]) -> ContextExtension:
    return resolve_extension(ModelConfig(**keys), summary.shape, summary)[0]


def _label(name: str, candidate: Candidate) -> str:
    """The method, and what of its arguments is short enough to tell."""
    parts = [name]
    parts += [
        f"{key} {_short(value)}" for key, value in candidate.arguments.items() if not isinstance(value, list)
    ]
    if candidate.factor is not None:
        parts.append(f"factor {candidate.factor:g}")
    if candidate.stretch != 1.0:
        parts.append(f"made for {candidate.stretch:g} × the window")
    return ", ".join(parts)


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return grouped(round(value)) if isinstance(value, float) and value >= 1000 else f"{value:g}"


def _positions(extension: ContextExtension) -> tuple[Any, ...]:
    """What two extensions have in common that read every text alike."""
    lengths = (extension.original_window, extension.target_window)
    return tuple(
        (tuple(inverse_frequencies(kind, length).tolist()), attention_factor(kind, length))
        for kind in extension.kinds
        for length in lengths
    )


def _flow(value: Any) -> str:
    """A value in YAML's and Hydra's common words."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)
