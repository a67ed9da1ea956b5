"""Errors meant for users: each names what is wrong, what is required, what was given and the mend."""

from __future__ import annotations

from typing import Any


class NemoPiError(Exception):
    """Base of every error that a user can mend.

    Args:
        field: the YAML key, flag or file that is wrong.
        required: what must hold.
        given: what was found instead.
        mend: how to put it right.
    """

    def __init__(self, field: str, *, required: str, given: Any, mend: str) -> None:
        self.field, self.required, self.given, self.mend = field, required, given, mend
        super().__init__(f"{field}: required {required}; given {given}. To mend: {mend}")

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only arguments would be lost when a worker process sends the error to its parent.
        return _rebuild, (type(self), self.field, self.required, self.given, self.mend)


def _rebuild(kind: type[NemoPiError], field: str, required: str, given: Any, mend: str) -> NemoPiError:
    return kind(field, required=required, given=given, mend=mend)


class ConfigError(NemoPiError, ValueError):
    """A configuration value that disagrees with its type, another value or the checkpoint."""


class CheckpointError(NemoPiError, ValueError):
    """A checkpoint that is missing, damaged, foreign or unsafe to read."""


class DataError(NemoPiError, ValueError):
    """Training or evaluation data that is missing, truncated, foreign or outside the vocabulary."""


class BackendUnavailableError(NemoPiError, RuntimeError):
    """An explicitly requested backend that cannot do the job here."""


class TrainingError(NemoPiError, FloatingPointError):
    """A training step whose loss or gradient is no number."""
