"""Loggers that a full disk, or a folder that is gone, silences instead of ending the run."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

from nemo_pi.errors import chain_of

logger = logging.getLogger(__name__)

_WRITING = ("log_metrics", "log_hyperparams", "log_graph", "save", "finalize", "after_save_checkpoint")


def tolerate_failures(loggers: Sequence[Any]) -> None:
    """Has what these loggers cannot write left out, said once each.

    A curve with a hole is worth less than the steps that a run would lose.
    """
    for each in loggers:
        said: list[str] = []
        for name in _WRITING:
            if hasattr(each, name):
                setattr(each, name, _tolerant(getattr(each, name), type(each).__name__, said))


def _tolerant(method: Callable[..., Any], name: str, said: list[str]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except Exception as error:
            # Lightning's TensorBoardLogger raises a ValueError of its own for whatever went wrong.
            cause = next((each for each in chain_of(error) if isinstance(each, OSError)), None)
            if cause is None:
                raise
            if not said:
                said.append(name)
                logger.warning(f"{name} cannot write ({cause}): the run goes on, its curves have a hole")
            return None

    return call
