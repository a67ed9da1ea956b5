"""Keeps what other libraries say of themselves from burying a run's plan and its progress.

Warnings of loggers and everything that nemo_pi says stay; NEMO_PI_VERBOSE=1 shows the rest again.
"""

from __future__ import annotations

import logging
import os
import warnings

SWITCH = "NEMO_PI_VERBOSE"
"""Environment variable; 1 shows every message."""

LEVELS = {
    # Sizes, buckets and options, which the plan names in fewer words. NeMo sets the level of `megatron.core`
    # itself, as Lightning does that of `lightning`; those below them are left alone.
    "megatron.core.datasets": logging.WARNING,
    "megatron.core.distributed": logging.WARNING,
    "megatron.core.optimizer": logging.WARNING,
    "lightning.pytorch.utilities.rank_zero": logging.WARNING,
    "lightning.fabric.utilities.rank_zero": logging.WARNING,
    "lightning.fabric.utilities.distributed": logging.WARNING,
    "nv_one_logger": logging.ERROR,  # that telemetry, which is off, is off
}
"""The least level that is shown of each logger and of those below it."""

LIBRARIES = r"(megatron|lightning|torch\.distributed)\b"
"""Whose Python warnings are for their own developers: deprecations, fallbacks that the plan names, advice."""
THROUGH_US = r"Please use DTensor instead"
"""The start of such a warning that names our file: on CPUs, PyTorch's calls go through a mode of ours."""
GPU_ADVICE = r"When using .* CUDA_DEVICE_MAX_CONNECTIONS"
"""Megatron's one warning that a user of GPUs can act on."""


def hide_harmless_messages() -> None:
    """Takes effect for this process; call it before the imports that utter the messages.

    Does nothing under NEMO_PI_VERBOSE=1, or when called again.
    """
    if os.environ.get(SWITCH, "0") not in ("", "0"):
        return
    for name, level in LEVELS.items():
        logging.getLogger(name).setLevel(level)
    # exp_manager prints its defaults, and NeMo sets its logger's level when it is imported.
    logging.getLogger("nemo_logger").addFilter(_is_warning)
    # The category must be Warning itself: NeMo takes an ignored category for ignored altogether, and would
    # drop every other UserWarning with these.
    warnings.filterwarnings("ignore", category=Warning, module=LIBRARIES)
    warnings.filterwarnings("ignore", category=Warning, message=THROUGH_US)
    if _has_gpu():
        warnings.filterwarnings("default", message=GPU_ADVICE, category=Warning)


def _is_warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING


def _has_gpu() -> bool:
    # Imported here: the filters above must be in place before the first heavy import.
    import torch

    return torch.cuda.is_available()
