"""The progress bar of command lines that take long."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

from nemo_pi.parallel import launcher


def progress_bar(total: int, unit: str, *, scaled: bool = True) -> Any:
    """A bar on the first rank; in a log file it moves every half minute.

    Args:
        total: units of the whole work.
        unit: what is counted.
        scaled: whether large counts are shortened (12.3k).
    """
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        unit=unit,
        unit_scale=scaled,
        file=sys.stderr,
        disable=not launcher.is_global_zero(),
        dynamic_ncols=terminal,
        ncols=None if terminal else 120,
        mininterval=0.5 if terminal else 30,
    )
