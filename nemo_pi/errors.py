"""Errors meant for users: each names what is wrong, what is required, what was given and the fix."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

T = TypeVar("T")
_PARTS = ("required", "given", "fix")
_P = ParamSpec("_P")
_Self = TypeVar("_Self", bound="NemoPiError")

_SENTENCES = re.compile(r"(?<=[.!?])\s+|\n+")
# Sentences of other libraries that say how to load a file anyway, or where to look before doing so.
_ADVICE = re.compile(
    r"trust_remote_code|weights_only|safe_globals|allow_pickle|two options|if you trust"
    r"|hf\.co|huggingface\.co|inspect the repository",
)


def quoted(error: BaseException) -> str:
    """What another library's error says, in one line, without its advice to load unsafely after all.

    transformers and torch name the argument that lets a file run its code; a refusal that repeats it tells
    its reader to do what was just refused.
    """
    sentences = [sentence.strip() for sentence in _SENTENCES.split(str(error))]
    kept = [sentence for sentence in sentences if sentence and not _ADVICE.search(sentence)]
    return " ".join(kept) or type(error).__name__


def chain_of(error: BaseException | None) -> list[BaseException]:
    """An error and what it came from, the last first."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def nearest(word: str, valid: Iterable[str]) -> str | None:
    """The valid word most like the given one, or None when none is alike; capitals do not matter."""
    lowered = {name.lower(): name for name in valid}
    found = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    return lowered[found[0]] if found else None


def nearest_path(path: Path) -> Path | None:
    """The path that exists and is spelt most like the given one, part by part; None when none is alike."""
    found = Path(path.anchor)
    for part in path.parts[len(found.parts) :]:
        if not (found / part).exists():
            try:
                near = nearest(part, sorted(other.name for other in found.iterdir()))
            except OSError:  # a file, or a folder that may not be listed
                return None
            if near is None:
                return None
            part = near
        found /= part
    return found


class NemoPiError(Exception):
    """Base of every error that a user can fix.

    Args:
        field: the YAML key, flag or file that is wrong.
        required: what must hold.
        given: what was found instead; of an exception, what `quoted` keeps.
        fix: how to put it right.
    """

    def __init__(self, field: str, *, required: str, given: Any, fix: str) -> None:
        given = quoted(given) if isinstance(given, BaseException) else given
        self.field, self.required, self.given, self.fix = field, required, given, fix
        super().__init__(f"{field}: required {required}; given {given}. To fix: {fix}")

    def respelled(self: _Self, names: Mapping[str, str]) -> _Self:
        """The same error, its fields called by the names that the reader knows.

        Args:
            names: an object's field → YAML key, flag or entry of a file. It is applied to the field and, in
                the texts, to names in backticks: `factor` gives the whole name, `.factor` its last part.
        """
        head = re.split(r"[.\[]", self.field, maxsplit=1)[0]
        field = names[head] + self.field[len(head) :] if head in names else self.field

        def name_of(match: re.Match[str]) -> str:
            known = names.get(match[2])
            return match[0] if known is None else known.rpartition(".")[2] if match[1] else known

        required, given, fix = (
            re.sub(r"`(\.?)(\w+)`", name_of, text) if isinstance(text, str) else text
            for text in (self.required, self.given, self.fix)
        )
        return type(self)(field.lstrip("."), required=required, given=given, fix=fix)

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only arguments would be lost when a worker process sends the error to its parent.
        return _rebuild, (type(self), self.field, self.required, self.given, self.fix)


def _rebuild(kind: type[NemoPiError], field: str, required: str, given: Any, fix: str) -> NemoPiError:
    return kind(field, required=required, given=given, fix=fix)


class ConfigError(NemoPiError, ValueError):
    """A configuration value that disagrees with its type, another value or the checkpoint."""


class ConfigErrors(ConfigError):
    """Several that do not depend on each other: one a line, their parts joined in each attribute."""

    def __init__(self, errors: Sequence[ConfigError]) -> None:
        self.errors = tuple(errors)
        parts = {part: [f"{each.field}: {getattr(each, part)}" for each in errors] for part in _PARTS}
        joined = {part: "; ".join(texts) for part, texts in parts.items()}
        super().__init__(", ".join(each.field for each in errors), **joined)
        self.args = ("\n".join(map(str, errors)),)

    def respelled(self, names: Mapping[str, str]) -> ConfigErrors:
        """Each of them respelled."""
        return ConfigErrors([each.respelled(names) for each in self.errors])

    def __reduce__(self) -> tuple[Any, ...]:
        return ConfigErrors, (self.errors,)


class Together:
    """Errors of checks that do not depend on each other, for one message instead of one a start."""

    def __init__(self) -> None:
        self._errors: list[ConfigError] = []

    def run(self, check: Callable[_P, T], *args: _P.args, **kwargs: _P.kwargs) -> T | None:
        """What a check returns, or None where it raised a ConfigError, which is kept."""
        try:
            return check(*args, **kwargs)
        except ConfigError as error:
            self.keep(error)
            return None

    def keep(self, error: ConfigError) -> None:
        """Adds an error to those that `stop` raises."""
        self._errors.append(error)

    def stop(self) -> None:
        """Goes on only where there was none.

        Raises:
            ConfigError: the only one as it is; several as ConfigErrors.
        """
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            raise ConfigErrors(self._errors)


class CheckpointError(NemoPiError, ValueError):
    """A checkpoint that is missing, damaged, foreign or unsafe to read."""


class DataError(NemoPiError, ValueError):
    """Training or evaluation data that is missing, truncated, foreign or outside the vocabulary."""


class BackendUnavailableError(NemoPiError, RuntimeError):
    """An explicitly requested backend that cannot do the job here."""


class TrainingError(NemoPiError, FloatingPointError):
    """A training step whose loss or gradient is no number."""


class DistributedError(NemoPiError, RuntimeError):
    """A rank that the others wait for in vain."""


def check_ids(field: str, low: int, high: int, vocab_size: int, *, whose: str, fix: str) -> None:
    """Refuses token ids outside a vocabulary: they would wrap around, be taken for another rank's, or end the
    process of a GPU.

    Args:
        field: what the ids are, or the file that holds them.
        low: the smallest of them.
        high: the largest.
        vocab_size: entries of the vocabulary.
        whose: the vocabulary, for the message.
        fix: how to put it right.

    Raises:
        DataError: an id below 0 or at or above vocab_size.
    """
    if low >= 0 and high < vocab_size:
        return
    magic = " (-100, which other frameworks take for 'ignore', means nothing here)" if low == -100 else ""
    raise DataError(
        field,
        required=f"token ids from 0 to {vocab_size - 1} ({whose})",
        given=f"ids from {low} to {high}{magic}",
        fix=fix,
    )
