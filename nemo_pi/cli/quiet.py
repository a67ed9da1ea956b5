"""Keeps messages of other libraries that nobody can act on from burying a run's plan and its progress.

Each entry names one message, by the logger that utters it and by its beginning, and why it is harmless.
Everything else is shown, errors always. NEMO_PI_VERBOSE=1 shows all of it again.
"""

from __future__ import annotations

import logging
import os
import re
import warnings
from dataclasses import dataclass

SWITCH = "NEMO_PI_VERBOSE"
"""Environment variable; 1 shows every message."""


@dataclass(frozen=True)
class Harmless:
    """A message that is not shown."""

    pattern: str
    """Regular expression that its text matches from the first character."""
    reason: str
    """Why nobody misses it."""
    loggers: tuple[str, ...] = ()
    """The loggers that may utter it; none where it is a Python warning."""
    on_gpu: bool = True
    """Whether it is as harmless where there is a GPU."""


_FALLBACK = "the plan says which attention and kernels run; the optimizer is torch's fused one without them"
_DETAIL = "Megatron's internals; the plan names data, optimizer and layout in fewer words"
_ACCELERATOR = "nemo_pi runs on CPUs and CUDA GPUs"
_ALONE = "says only that a run of one rank has one rank"
_EXP_MANAGER = "exp_manager's arguments are in the YAML"
_TELEMETRY = "telemetry that is switched off"

# Lightning's rank_zero_info goes to whichever of the two was imported last.
_RANK_ZERO = ("lightning.fabric.utilities.rank_zero", "lightning.pytorch.utilities.rank_zero")

HARMLESS: tuple[Harmless, ...] = (
    # ---- Python warnings
    Harmless(r"Transformer Engine and Apex are not installed\. Falling back", _FALLBACK),
    Harmless(r"Apex is not installed\. Falling back to Torch Norm", _FALLBACK),
    Harmless(r"full scope is deprecated\. Use empty cuda_graph_scope", "a default of Megatron's own"),
    Harmless(
        r"Please use DTensor instead and we are deprecating ShardedTensor", "Megatron's checkpoints use it"
    ),
    Harmless(
        r"\s*Future Hydra versions will no longer change working directory",
        "NeMo's hydra_runner keeps the working directory in any case",
    ),
    Harmless(
        r"The `srun` command is available on your system but is not used",
        "a launch without srun is deliberate; the plan says how many ranks there are",
    ),
    Harmless(
        r"It is recommended to use `self\.log\('val_loss', \.\.\., sync_dist=True\)`",
        "the engine has averaged val_loss over all ranks before it is logged",
    ),
    Harmless(
        r"The '\w+_dataloader' does not have many workers",
        "tokens are read from a memory map, faster than worker processes hand them over",
    ),
    Harmless(
        r"When using (async grad allreduce|sequence parallelism) it is recommended .* CUDA_DEVICE",
        "there are no CUDA connections",
        on_gpu=False,
    ),
    # ---- log records
    Harmless(r"OneLogger: Setting error_handling_strategy", _TELEMETRY, ("nv_one_logger.api.config",)),
    Harmless(
        r"No exporters were provided",
        _TELEMETRY,
        ("nv_one_logger.training_telemetry.api.training_telemetry_provider",),
    ),
    Harmless(r"ExpManager schema$", _EXP_MANAGER, ("nemo_logger",)),
    Harmless(r"\{'explicit_log_dir':", _EXP_MANAGER, ("nemo_logger",)),
    Harmless(r"(TPU|HPU) available: False", _ACCELERATOR, _RANK_ZERO),
    Harmless(r"-+\ndistributed_backend=.*\n.*Starting with 1 processes", _ALONE, _RANK_ZERO),
    Harmless(
        r"Initializing distributed: GLOBAL_RANK: 0, MEMBER: 1/1$",
        _ALONE,
        ("lightning.fabric.utilities.distributed",),
    ),
    Harmless(
        r"Load the _IndexReader from|\tExtract the |> total number of ",
        "repeated for every opening of a file whose sizes nemo_pi has checked",
        ("megatron.core.datasets.indexed_dataset",),
    ),
    Harmless(
        r"Setting up DistributedDataParallel with config",
        _DETAIL,
        ("megatron.core.distributed.distributed_data_parallel",),
    ),
    Harmless(
        r"Number of buckets for gradient all-reduce",
        _DETAIL,
        ("megatron.core.distributed.param_and_grad_buffer",),
    ),
    Harmless(r"Setting up optimizer with config", _DETAIL, ("megatron.core.optimizer",)),
    Harmless(
        r"Overwriting old incomplete / corrupted checkpoint",
        "nothing is overwritten: saves begin in a hidden folder that already holds the tokenizer",
        ("megatron.core.dist_checkpointing.serialization",),
    ),
)


class _HarmlessFilter(logging.Filter):
    """Drops a logger's harmless records."""

    def __init__(self, patterns: list[str]) -> None:
        super().__init__()
        self.patterns = [re.compile(pattern, re.DOTALL) for pattern in patterns]

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR:
            return True
        text = record.getMessage()
        return not any(pattern.match(text) for pattern in self.patterns)


def hide_harmless_messages() -> None:
    """Takes effect for this process; call it before the imports that utter the messages.

    Does nothing under NEMO_PI_VERBOSE=1, or when called again.
    """
    if os.environ.get(SWITCH, "0") not in ("", "0"):
        return
    patterns: dict[str, list[str]] = {}
    for message in HARMLESS:
        if not message.on_gpu and _has_gpu():
            continue
        if not message.loggers:
            # The category must be Warning itself: NeMo takes an ignored category for ignored altogether,
            # and would drop every other UserWarning with these.
            warnings.filterwarnings("ignore", message=message.pattern, category=Warning)
        for name in message.loggers:
            patterns.setdefault(name, []).append(message.pattern)
    for name, found in patterns.items():
        logger = logging.getLogger(name)
        if not any(isinstance(existing, _HarmlessFilter) for existing in logger.filters):
            logger.addFilter(_HarmlessFilter(found))


def _has_gpu() -> bool:
    # Imported here: everything else in this file must take effect before the first heavy import.
    import torch

    return torch.cuda.is_available()
