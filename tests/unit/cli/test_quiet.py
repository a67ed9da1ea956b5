"""What libraries say of themselves disappears; their warnings to users, and all that is ours, stay."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from nemo_pi.cli.quiet import LEVELS, SWITCH, hide_harmless_messages

ROOT = Path(__file__).parents[3]

# As they were seen, with the logger that uttered them.
SEEN_RECORDS = [
    ("nemo_logger", logging.INFO, "ExpManager schema"),
    ("lightning.pytorch.utilities.rank_zero", logging.INFO, "TPU available: False, using: 0 TPU cores"),
    ("lightning.fabric.utilities.rank_zero", logging.INFO, "distributed_backend=gloo"),
    ("lightning.fabric.utilities.distributed", logging.INFO, "Initializing distributed: GLOBAL_RANK: 0"),
    ("megatron.core.datasets.indexed_dataset", logging.INFO, "Load the _IndexReader from /data/a.idx"),
    ("megatron.core.distributed.param_and_grad_buffer", logging.INFO, "Number of buckets: 1"),
    ("megatron.core.optimizer", logging.INFO, "Setting up optimizer with config OptimizerConfig(lr=0.0015)"),
    (
        "nv_one_logger.training_telemetry.api.training_telemetry_provider",
        logging.WARNING,
        "No exporters were provided.",
    ),
]
# With the module that uttered them.
SEEN_WARNINGS = [
    ("megatron.core.optimizer", UserWarning, "Transformer Engine and Apex are not installed."),
    ("megatron.core.optimizer.optimizer", UserWarning, "The .grad attribute of a Tensor that is not a leaf"),
    ("torch.distributed._shard.sharded_tensor.api", FutureWarning, "Please use DTensor instead"),
    ("nemo_pi.parallel.cpu_shim", FutureWarning, "Please use DTensor instead and we are deprecating it."),
    ("lightning.pytorch.trainer.connectors.data_connector", UserWarning, "not have many workers"),
]
KEPT_RECORDS = [
    ("nemo_logger", logging.WARNING, "the run folder is not empty"),
    ("nemo_pi.nemo.checkpointing", logging.INFO, "Told to stop: saving step 7 first."),
    ("nemo_pi.checkpoint.retention", logging.WARNING, "Skipping a checkpoint: Load the _IndexReader from"),
    ("lightning.pytorch.utilities.rank_zero", logging.WARNING, "a callback was disabled"),
    ("megatron.core.optimizer", logging.WARNING, "the loss scale fell to 1"),
]
KEPT_WARNINGS = [
    ("__main__", UserWarning, "this run will fail"),
    ("nemo_pi.nemo.run", UserWarning, "Apex is not installed. Falling back to Torch Norm"),
    ("torch.nn.functional", UserWarning, "Using a target size that is different to the input size"),
    ("megatronic", UserWarning, "another package"),
]


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Levels and filters as they were, whatever a test adds; loggers show information from the start."""
    monkeypatch.delenv(SWITCH, raising=False)
    names = {*LEVELS, "nemo_logger", "nemo_pi", *(name for name, *_ in SEEN_RECORDS + KEPT_RECORDS)}
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger, logger.level, list(logger.filters), logger.disabled) for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.NOTSET)
        logger.filters.clear()
        logger.disabled = False
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.INFO)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield
    root.setLevel(level)
    for logger, its_level, filters, disabled in before:
        logger.setLevel(its_level)
        logger.filters[:] = filters
        logger.disabled = disabled


def shown(name: str, level: int, text: str) -> bool:
    """Whether a record of that logger reaches a handler."""
    logger, stream = logging.getLogger(name), io.StringIO()
    handler = logging.StreamHandler(stream)
    logger.addHandler(handler)
    try:
        logger.log(level, text)
    finally:
        logger.removeHandler(handler)
    return bool(stream.getvalue())


def warned(module: str, category: type[Warning], text: str) -> bool:
    with warnings.catch_warnings(record=True) as caught:
        warnings.warn_explicit(text, category, "file.py", 1, module=module)
    return bool(caught)


def levels_as_found(*names: str) -> None:
    """NeMo and Lightning set these when they are imported, or when a run begins."""
    for name in names:
        logging.getLogger(name).setLevel(logging.INFO)


@pytest.mark.parametrize(("name", "level", "text"), SEEN_RECORDS)
def test_what_libraries_say_of_themselves_disappears(name: str, level: int, text: str) -> None:
    assert shown(name, level, text)
    hide_harmless_messages()
    levels_as_found("nemo_logger", "lightning", "lightning.pytorch", "megatron.core")
    assert not shown(name, level, text)
    assert shown(name, logging.ERROR, text)


@pytest.mark.parametrize(("module", "category", "text"), SEEN_WARNINGS)
def test_warnings_to_their_own_developers_disappear(module: str, category: type[Warning], text: str) -> None:
    assert warned(module, category, text)
    hide_harmless_messages()
    assert not warned(module, category, text)


@pytest.mark.parametrize("gpu", [False, True])
def test_advice_for_gpus_is_shown_on_gpus(gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    hide_harmless_messages()
    advice = "When using async grad allreduce it is recommended to set the environment variable "
    text = advice + "CUDA_DEVICE_MAX_CONNECTIONS to 1 for maximum speedup"
    assert warned("megatron.core.tensor_parallel.layers", UserWarning, text) is gpu


def test_everything_else_is_shown() -> None:
    hide_harmless_messages()
    for name, level, text in KEPT_RECORDS:
        assert shown(name, level, text), text
    for module, category, text in KEPT_WARNINGS:
        assert warned(module, category, text), text


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
    assert shown(*SEEN_RECORDS[0]) is not hides
    assert warned(*SEEN_WARNINGS[0]) is not hides


def test_calling_it_again_adds_nothing() -> None:
    hide_harmless_messages()
    filters, count = list(warnings.filters), len(logging.getLogger("nemo_logger").filters)
    hide_harmless_messages()
    assert list(warnings.filters) == filters
    assert len(logging.getLogger("nemo_logger").filters) == count == 1


@pytest.mark.slow
def test_a_dry_run_shows_the_plan_and_little_else() -> None:
    """The real entry point in a process of its own; standard error is empty."""
    command = [sys.executable, "examples/extend_context.py", "dry_run=true", "model=llama-7b"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    plan = next(number for number, line in enumerate(lines) if line.startswith("Plan of "))
    assert plan <= 1, lines[:plan]
    assert done.stderr == ""
