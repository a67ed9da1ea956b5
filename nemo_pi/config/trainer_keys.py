"""The trainer section, which Lightning owns: its keys are those of lightning.Trainer."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from nemo_pi.config.exp_manager_keys import check_duration
from nemo_pi.config.foreign_keys import TRAINER
from nemo_pi.config.merge import check_keys, convert
from nemo_pi.config.shapes import check_choice
from nemo_pi.errors import ConfigError

# Set by nemo_pi itself; a YAML that sets them too would be overruled silently.
_OURS = {
    "strategy": "the Megatron strategy is built from the model's parallel sizes",
    "plugins": "precision and cluster environment are built from trainer.precision and the launcher",
    "callbacks": "callbacks come from exp_manager and nemo_pi",
}

# A run counts steps, not epochs: with Lightning's default, an interval longer than what is left of the data
# would stop a run that resumes near its end.
STEP_BASED: dict[str, Any] = {"check_val_every_n_epoch": None}
_WHOLE = {
    "num_nodes": 1,
    "val_check_interval": 1,
    "limit_val_batches": 0,
    "log_every_n_steps": 1,
    "num_sanity_val_steps": 0,
    "min_steps": 0,
    "min_epochs": 0,
    "check_val_every_n_epoch": 1,
    "limit_test_batches": 0,
    "limit_predict_batches": 0,
}
_FLAGS = (
    *("enable_progress_bar", "enable_model_summary", "detect_anomaly", "benchmark"),
    *("inference_mode", "sync_batchnorm"),
)
# What a run of so many steps over an endless stream of samples has no place for, and Lightning's own neutral
# values, which users' YAMLs spell out.
_NEUTRAL: dict[str, tuple[tuple[Any, ...], str]] = {
    "logger": ((False, None), "loggers come from exp_manager (create_tensorboard_logger, ...)"),
    "enable_checkpointing": ((False, None), "checkpoints come from exp_manager.checkpoint_callback_params"),
    "use_distributed_sampler": ((False, None), "samples are dealt out by nemo_pi"),
    "limit_train_batches": ((None, 1.0), "set trainer.max_steps"),
    "overfit_batches": ((None, 0.0), "set trainer.max_steps and a small model.data.data_prefix"),
    "fast_dev_run": ((None, False), "set trainer.max_steps=1, or dry_run=true"),
    "barebones": ((None, False), "leave it out"),
    "gradient_clip_algorithm": ((None, "norm"), "gradients are clipped by their norm"),
    "reload_dataloaders_every_n_epochs": ((None, 0), "leave it out: loaders are made once"),
}

# What Lightning takes by name.
_CHOICES: dict[str, tuple[Any, ...]] = {
    "profiler": (None, "simple", "advanced", "pytorch"),
    "deterministic": (None, False, True, "warn"),
}


def check_trainer(trainer: Mapping[str, Any]) -> None:
    """Refuse keys that lightning.Trainer does not have, or that nemo_pi sets itself.

    Raises:
        ConfigError: naming the key and the nearest valid one.
    """
    check_keys(trainer, TRAINER, "trainer")
    for key, why in _OURS.items():
        if trainer.get(key) is not None:
            raise ConfigError(
                f"trainer.{key}", required=f"no value: {why}", given=trainer[key], fix="remove the key"
            )
    for key, least in _WHOLE.items():
        _check_whole(key, trainer.get(key), least)
    for key in _FLAGS:
        if trainer.get(key) is not None:
            convert(trainer[key], bool, f"trainer.{key}")
    for key, (neutral, fix) in _NEUTRAL.items():
        _check_neutral(key, trainer.get(key), neutral, fix)
    for key, allowed in _CHOICES.items():
        if (value := trainer.get(key)) not in allowed:
            required = " or ".join("null" if each is None else str(each).lower() for each in allowed)
            raise ConfigError(
                f"trainer.{key}", required=required, given=repr(value)[:200], fix="leave it out"
            )
    if (root := trainer.get("default_root_dir")) is not None:
        convert(root, str, "trainer.default_root_dir")
    check_choice(
        "trainer.accelerator", str(trainer.get("accelerator", "auto")), ("auto", "cpu", "gpu", "cuda")
    )
    check_duration("trainer.max_time", trainer.get("max_time"))
    epochs = trainer_number(trainer, "max_epochs", int, -1)
    if epochs == 0 or epochs < -1:
        raise ConfigError(
            "trainer.max_epochs",
            required="null or -1: trainer.max_steps ends a run",
            given=epochs,
            fix="leave it out",
        )
    accumulate = trainer.get("accumulate_grad_batches", 1)
    if accumulate != 1:
        raise ConfigError(
            "trainer.accumulate_grad_batches",
            required="1: gradients are accumulated over global_batch_size",
            given=accumulate,
            fix="set model.global_batch_size instead",
        )


def _check_neutral(key: str, value: Any, neutral: tuple[Any, ...], fix: str) -> None:
    """Refuse what would be overruled, or would end a run before its steps are done."""
    # By type too: True equals 1.0, which for a number of batches means something else.
    if any(value == allowed and type(value) is type(allowed) for allowed in neutral):
        return
    required = " or ".join("null" if value is None else str(value).lower() for value in neutral)
    raise ConfigError(f"trainer.{key}", required=required, given=value, fix=fix)


def _check_whole(key: str, value: Any, least: int) -> None:
    """Refuse fractions: 0.5 of a stream of samples that goes on for ever is not a number of batches."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= least):
        return
    raise ConfigError(
        f"trainer.{key}",
        required=f"a whole number of at least {least}",
        given=f"{value!r} ({type(value).__name__})",
        fix="write a whole number, without quotes or a decimal point",
    )


def trainer_number(trainer: Mapping[str, Any], key: str, kind: Any, default: Any) -> Any:
    """One typed value of the trainer section."""
    value = trainer.get(key)
    return default if value is None else convert(value, kind, f"trainer.{key}")


def world_size_of(trainer: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> int:
    """Ranks of the run: the launcher's WORLD_SIZE, else trainer.devices × trainer.num_nodes.

    `devices` may be a number, a list of device indices, a text of either kind, `auto` or -1; the last two
    count the CUDA devices of this machine, or 1 without any.
    """
    if environ.get("WORLD_SIZE"):
        return int(environ["WORLD_SIZE"])
    return _devices(trainer.get("devices", "auto")) * int(trainer_number(trainer, "num_nodes", int, 1))


def _devices(devices: Any) -> int:
    if isinstance(devices, Sequence) and not isinstance(devices, str):
        return len(devices)
    text = str(devices).strip()
    if text in ("auto", "-1"):
        import torch

        return max(1, torch.cuda.device_count())
    if "," in text:
        return len([part for part in text.split(",") if part.strip()])
    number: int = int(text) if text.isdigit() else convert(devices, int, "trainer.devices")
    if number < 1:
        raise ConfigError(
            "trainer.devices", required="at least 1, a list or auto", given=devices, fix="trainer.devices=1"
        )
    return number
