"""How much is trained and measured, as multiples of the shipped size."""

from __future__ import annotations

from dataclasses import dataclass

from nemo_pi.errors import ConfigError

WINDOW, TARGET = 8192, 32768
"""Tokens of the model's own window, and of the extended one."""
SAMPLE = 1024
"""Tokens of a training sample, whose positions skip through the target window."""


@dataclass(frozen=True)
class Size:
    """What one run does; the shipped one is `sized(1)`."""

    steps: int
    """Optimizer steps of each method, of one sample each."""
    books: int
    """Texts whose ends are read at each length."""
    short_texts: int
    """Texts whose first 8,192 tokens are read."""
    needle_trials: int
    """Prompts of each length and depth."""
    ruler_samples: int
    """Prompts of each subtask."""
    needle_lengths: tuple[int, ...]
    """Tokens of a needle's prompt."""
    ruler_lengths: tuple[int, ...]
    """Tokens of RULER's prompts."""
    untrained: bool
    """Whether each scaling is measured before training as well."""


def sized(times: float) -> Size:
    """The shipped size, so many times as much.

    Raises:
        ConfigError: below a tenth, where nothing would be left, or beyond a hundred.
    """
    if not 0.1 <= times <= 100:
        raise ConfigError("times", required="from 0.1 to 100", given=times, fix="1 is the shipped size")

    def count(shipped: int) -> int:
        return max(1, round(shipped * times))

    return Size(
        steps=max(20, round(200 * times)),
        books=min(5, count(1)),
        short_texts=min(20, count(3)),
        needle_trials=count(1),
        ruler_samples=count(2),
        # Beyond the model's window in any case; a long prompt costs most where little is to be spent.
        needle_lengths=(2 * WINDOW, TARGET) if times >= 1 else (3 * WINDOW // 2,),
        # Within it as well, which the relative length is measured by.
        ruler_lengths=(WINDOW, 2 * WINDOW if times >= 1 else 3 * WINDOW // 2),
        untrained=times >= 1,
    )
