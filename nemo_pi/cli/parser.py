"""argparse for all command lines: flags in full only, and a misspelt one is answered with the nearest."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from nemo_pi.errors import nearest


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that takes no abbreviations.

    argparse takes `--document` for `--documents` as long as no other flag begins like it: a slip of the pen
    silently means something, and a script that relies on it breaks with the next flag.

    Args:
        settings: ArgumentParser's.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, allow_abbrev=False)
        self._words: Sequence[str] = ()

    # All other ways of parsing come through here.
    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's; remembers the words for `error`."""
        self._words = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Prints usage and message, then the flags that may have been meant, and ends with status 2."""
        hints = self._hints()
        super().error(f"{message}. To fix: {'; '.join(hints)}" if hints else message)

    def _hints(self) -> list[str]:
        """What to write for each flag that there is not, where one is alike."""
        known = [name for name in self._option_string_actions if name.startswith("--")]
        given = [word.partition("=")[0] for word in self._words if word.startswith("--") and word != "--"]
        unknown = dict.fromkeys(word for word in given if word not in known)
        pairs = [(word, nearest(word, known)) for word in unknown]
        return [f"write {found} for {word}" for word, found in pairs if found]
