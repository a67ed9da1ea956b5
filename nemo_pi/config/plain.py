"""A configuration as plain Python values, its interpolations resolved as long as they come to an end."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nemo_pi.errors import ConfigError

MOST_STEPS = 10_000
"""Interpolations that are resolved, those within what they name included each time."""
MOST_LETTERS = 4_000_000
"""Of all texts, interpolations written out."""
MOST_CHAIN = 50
"""Interpolations that lead from one to the next."""

_INNERMOST = re.compile(r"\$\{([^${}]*)\}")
# Interpolations whose key is itself made by one cannot be followed; a few are let through, each counted as
# if it named much.
_MOST_MADE_KEYS, _MADE_KEY_STEPS = 4, 1000
_TAKE_KEYS = ("oc.select", "oc.deprecated", "oc.dict.keys", "oc.dict.values")


def plain(cfg: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """Plain Python values of a configuration, interpolations resolved, missing ones left as `???`.

    Raises:
        ConfigError: an interpolation that cannot be resolved, or that comes to more than any YAML means.
    """
    try:
        if not isinstance(cfg, DictConfig):
            cfg = OmegaConf.create(dict(cfg))
        check_expansion(cfg)
        values = OmegaConf.to_container(cfg, resolve=True)
    except (OmegaConfBaseException, RecursionError, ArithmeticError) as error:
        message = str(error).splitlines() or [type(error).__name__]
        raise ConfigError(
            str(getattr(error, "full_key", None) or "configuration"),
            required="a value that can be resolved",
            given=message[0],
            fix="write the value itself, or fix the key it refers to",
        ) from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def check_expansion(cfg: DictConfig) -> None:
    """Counts what the interpolations of a configuration come to, without resolving any.

    Forty keys that each name the one before twice come to 2^40 texts.

    Raises:
        ConfigError: naming the key.
    """
    raw = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(raw, dict)
    _Expansion({str(key): value for key, value in raw.items()}).size(())


class _Expansion:
    """What every key of a configuration comes to: interpolations to resolve, and letters."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw
        self.known: dict[tuple[str, ...], tuple[int, int]] = {}
        self.open: list[tuple[str, ...]] = []
        self.made_keys = 0

    def size(self, path: tuple[str, ...]) -> tuple[int, int]:
        """(interpolations, letters) of the value at a path; nothing where there is none."""
        if path in self.known:
            return self.known[path]
        value = self._at(path)
        if path in self.open:
            raise _refused(path, "a value that does not lead back to itself", "an interpolation that does")
        if sum(isinstance(self._at(each), str) for each in self.open) > MOST_CHAIN:
            raise _refused(path, f"at most {MOST_CHAIN} interpolations in a chain", "more")
        self.open.append(path)
        if isinstance(value, Mapping):
            parts = [self.size((*path, str(key))) for key in value]
        elif isinstance(value, list):
            parts = [self.size((*path, str(index))) for index in range(len(value))]
        else:
            parts = [(0, len(value)), *self._references(value, path)] if isinstance(value, str) else [(0, 8)]
        self.open.pop()
        steps, letters = (sum(numbers) for numbers in zip((0, 0), *parts, strict=True))
        if steps > MOST_STEPS or letters > MOST_LETTERS:
            raise _refused(
                path,
                f"interpolations that come to at most {MOST_STEPS:,} values and {MOST_LETTERS:,} letters",
                "more, as each is written out wherever it is named",
            )
        self.known[path] = steps, letters
        return self.known[path]

    def _references(self, text: str, path: tuple[str, ...]) -> Iterator[tuple[int, int]]:
        while "${" in text:
            found = list(_INNERMOST.finditer(text))
            if not found:
                return  # no interpolation, or none that OmegaConf can read
            for match in found:
                yield self._reference(match[1], path)
            text = _INNERMOST.sub("\0", text)

    def _reference(self, inner: str, path: tuple[str, ...]) -> tuple[int, int]:
        resolver, colon, rest = inner.partition(":")
        key = inner
        if colon:
            if resolver.strip() not in _TAKE_KEYS:
                return 1, 0
            key = rest.partition(",")[0].strip(" '\"")
        if "\0" in key:
            self.made_keys += 1
            if self.made_keys > _MOST_MADE_KEYS:
                required = f"at most {_MOST_MADE_KEYS} interpolations whose key is made by another"
                raise _refused(path, required, "more")
            return _MADE_KEY_STEPS, 0
        steps, letters = self.size(_absolute(key, path))
        return steps + 1, letters

    def _at(self, path: tuple[str, ...]) -> Any:
        value: Any = self.raw
        for part in path:
            if isinstance(value, Mapping):
                value = next((inner for key, inner in value.items() if str(key) == part), None)
            elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
                value = value[int(part)]
            else:
                return None
        return value


def _absolute(key: str, path: tuple[str, ...]) -> tuple[str, ...]:
    """The path that an interpolation at `path` names: from the top, or with leading dots from beside it."""
    name = key.strip()
    rest = name.lstrip(".")
    dots = len(name) - len(rest)
    parts = tuple(part for part in re.split(r"[.\[\]]+", rest) if part)
    return (*path[: max(0, len(path) - dots)], *parts) if dots else parts


def _refused(path: tuple[str, ...], required: str, given: str) -> ConfigError:
    key = ".".join(path) or "configuration"
    return ConfigError(key, required=required, given=given, fix="write the value itself")
