"""Only the messages that are named disappear; what looks like them, and everything else, stays."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from nemo_pi.cli.quiet import HARMLESS, SWITCH, hide_harmless_messages

ROOT = Path(__file__).parents[3]
LOGGERS = sorted({name for message in HARMLESS for name in message.loggers})

# As they were seen, with the logger or the warning's category.
SEEN_RECORDS = [
    ("nemo_logger", "ExpManager schema"),
    ("nemo_logger", "{'explicit_log_dir': None, 'exp_dir': None, 'name': None}"),
    ("lightning.pytorch.utilities.rank_zero", "TPU available: False, using: 0 TPU cores"),
    ("lightning.pytorch.utilities.rank_zero", "HPU available: False, using: 0 HPUs"),
    (
        "lightning.fabric.utilities.rank_zero",
        f"{'-' * 100}\ndistributed_backend=gloo\n"
        f"All distributed processes registered. Starting with 1 processes\n{'-' * 100}\n",
    ),
    ("lightning.fabric.utilities.distributed", "Initializing distributed: GLOBAL_RANK: 0, MEMBER: 1/1"),
    ("megatron.core.datasets.indexed_dataset", "Load the _IndexReader from /data/a_text_document.idx"),
    ("megatron.core.datasets.indexed_dataset", "\tExtract the sequence lengths"),
    ("megatron.core.datasets.indexed_dataset", "> total number of documents: 286"),
    (
        "megatron.core.distributed.distributed_data_parallel",
        "Setting up DistributedDataParallel with config DistributedDataParallelConfig(...)",
    ),
    (
        "megatron.core.distributed.param_and_grad_buffer",
        "Number of buckets for gradient all-reduce / reduce-scatter: 1\nParams for bucket 1 (3 elements):",
    ),
    ("megatron.core.optimizer", "Setting up optimizer with config OptimizerConfig(lr=0.0015)"),
    (
        "megatron.core.dist_checkpointing.serialization",
        "Overwriting old incomplete / corrupted checkpoint...",
    ),
]
SEEN_WARNINGS = [
    "Transformer Engine and Apex are not installed. Falling back to Torch optimizers.",
    "Apex is not installed. Falling back to Torch Norm",
    "full scope is deprecated. Use empty cuda_graph_scope to capture the whole layer.",
    "Please use DTensor instead and we are deprecating ShardedTensor.",
    "\nFuture Hydra versions will no longer change working directory at job runtime by default.\nSee https://",
    "The `srun` command is available on your system but is not used. HINT: If your intention",
    "It is recommended to use `self.log('val_loss', ..., sync_dist=True)` when logging on epoch level",
]
KEPT_RECORDS = [
    ("nemo_logger", "Experiments will be logged at results/run"),
    ("nemo_logger", "no such key in ExpManager schema"),
    ("nemo_logger", "Told to stop: saving step 7 first."),
    ("lightning.pytorch.utilities.rank_zero", "GPU available: True (cuda), used: True"),
    ("lightning.fabric.utilities.distributed", "Initializing distributed: GLOBAL_RANK: 0, MEMBER: 1/4"),
    (
        "lightning.fabric.utilities.rank_zero",
        "----\ndistributed_backend=gloo\nAll distributed processes registered. Starting with 16 processes\n",
    ),
    ("megatron.core.optimizer", "the loss scale fell to 1"),
    ("nemo_pi.checkpoint.rotation", "Skipping a checkpoint: Load the _IndexReader from"),
]
KEPT_WARNINGS = ["this run will fail", "I think that Apex is not installed. Falling back to Torch Norm"]


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Filters as they were, whatever a test adds."""
    monkeypatch.delenv(SWITCH, raising=False)
    before = {name: list(logging.getLogger(name).filters) for name in LOGGERS}
    for name in LOGGERS:
        logging.getLogger(name).filters.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield
    for name, filters in before.items():
        logging.getLogger(name).filters[:] = filters


def shown(name: str, text: str, level: int = logging.WARNING) -> bool:
    """Whether a record of that logger reaches a handler."""
    logger, stream = logging.getLogger(name), io.StringIO()
    handler = logging.StreamHandler(stream)
    logger.addHandler(handler)
    try:
        logger.log(level, text)
    finally:
        logger.removeHandler(handler)
    return bool(stream.getvalue())


def warned(text: str, category: type[Warning] = UserWarning) -> bool:
    with warnings.catch_warnings(record=True) as caught:
        warnings.warn(text, category, stacklevel=1)
    return bool(caught)


@pytest.mark.parametrize(("name", "text"), SEEN_RECORDS)
def test_records_that_are_named_disappear(name: str, text: str) -> None:
    assert shown(name, text)
    hide_harmless_messages()
    assert not shown(name, text)
    assert shown(name, text, logging.ERROR)


@pytest.mark.parametrize("text", SEEN_WARNINGS)
def test_warnings_that_are_named_disappear(text: str) -> None:
    assert warned(text)
    hide_harmless_messages()
    assert not warned(text)


@pytest.mark.parametrize("gpu", [False, True])
def test_advice_for_gpus_is_shown_on_gpus(gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    hide_harmless_messages()
    advice = "When using async grad allreduce it is recommended to set the environment variable "
    assert warned(advice + "CUDA_DEVICE_MAX_CONNECTIONS to 1 for maximum speedup") is gpu


def test_everything_else_is_shown() -> None:
    hide_harmless_messages()
    for name, text in KEPT_RECORDS:
        assert shown(name, text), text
    for text in KEPT_WARNINGS:
        assert warned(text), text


def test_nemo_still_passes_other_warnings_on() -> None:
    """NeMo drops all warnings of a category of which any is ignored."""
    from nemo.utils import logging as nemo_logging

    stream = io.StringIO()
    with warnings.catch_warnings(), nemo_logging.patch_stderr_handler(stream):
        warnings.resetwarnings()  # other tests' libraries may have left filters of their own
        hide_harmless_messages()
        assert warnings.filters, "none of ours"
        nemo_logging._showwarning("this run will fail", UserWarning, "file.py", 1)
    assert "this run will fail" in stream.getvalue()


@pytest.mark.parametrize(("value", "hides"), [("1", False), ("yes", False), ("0", True), ("", True)])
def test_the_switch_shows_everything(value: str, hides: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, value)
    hide_harmless_messages()
    assert shown("nemo_logger", "ExpManager schema") is not hides
    assert warned(SEEN_WARNINGS[0]) is not hides


def test_calling_it_again_adds_nothing() -> None:
    hide_harmless_messages()
    filters, count = list(warnings.filters), len(logging.getLogger("nemo_logger").filters)
    hide_harmless_messages()
    assert list(warnings.filters) == filters
    assert len(logging.getLogger("nemo_logger").filters) == count == 1


def test_every_message_has_its_reason() -> None:
    assert all(message.pattern and message.reason for message in HARMLESS)
    assert len({(message.pattern, message.loggers) for message in HARMLESS}) == len(HARMLESS)


@pytest.mark.slow
def test_a_dry_run_shows_the_plan_and_little_else() -> None:
    """The real entry point in a process of its own; standard error is empty."""
    command = [sys.executable, "examples/extend_context.py", "dry_run=true", "model=llama-7b"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    plan = next(number for number, line in enumerate(lines) if line.startswith("Plan of "))
    assert plan <= 1, lines[:plan]
    assert done.stderr == ""
