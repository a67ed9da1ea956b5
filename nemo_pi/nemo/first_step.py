"""What a run stops at, up to its first step, because of options that went to Megatron as they stand."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.errors import ConfigError, NemoPiError

_log = logging.getLogger(__name__)


@contextmanager
def options_named(run: ResolvedRun, what: str) -> Iterator[None]:
    """Names the Megatron options of a run's YAML when what is done inside fails; without any, does nothing.

    Megatron's configurations take combinations that its layers then fail at, such as fp32_residual_connection
    with 16-bit weights: no check before the step can know them all.

    Args:
        run: the validated run.
        what: is done inside, for the message.

    Raises:
        ConfigError: naming the keys, chained to what was raised, whose traceback goes to the log.
    """
    options = run.megatron_options()
    try:
        yield
    except (NemoPiError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if not options:
            raise
        # The command line prints our message alone, and the options need not be to blame.
        _log.error("%s failed", what, exc_info=error)
        given = ", ".join(f"{key}={value}" for key, value in options.items())
        raise ConfigError(
            ", ".join(options),
            required="options that Megatron can compute this model with",
            given=f"{given}, with which {what} failed: {type(error).__name__}: {error}",
            fix="set them to null one by one: null leaves an option to nemo_pi and Megatron; if it fails "
            "without them, too, they are not the reason",
        ) from error
