"""The two sections that other libraries own: their keys are checked against those libraries themselves."""

from __future__ import annotations

import dataclasses
import inspect
import os
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from nemo_pi.config.merge import check_keys, convert
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
_WHOLE = {"num_nodes": 1, "val_check_interval": 1, "limit_val_batches": 0, "log_every_n_steps": 1}


def check_trainer(trainer: Mapping[str, Any]) -> None:
    """Refuse keys that lightning.Trainer does not have, or that nemo_pi sets itself.

    Raises:
        ConfigError: naming the key and the nearest valid one.
    """
    if not trainer:
        return
    from lightning.pytorch import Trainer

    check_keys(
        trainer,
        [name for name in inspect.signature(Trainer.__init__).parameters if name != "self"],
        "trainer",
    )
    for key, why in _OURS.items():
        if trainer.get(key) is not None:
            raise ConfigError(
                f"trainer.{key}", required=f"no value: {why}", given=trainer[key], mend="remove the key"
            )
    for key, least in _WHOLE.items():
        _check_whole(key, trainer.get(key), least)
    accumulate = trainer.get("accumulate_grad_batches", 1)
    if accumulate != 1:
        raise ConfigError(
            "trainer.accumulate_grad_batches",
            required="1: gradients are accumulated over global_batch_size",
            given=accumulate,
            mend="set model.global_batch_size instead",
        )


def _check_whole(key: str, value: Any, least: int) -> None:
    """Refuse fractions: 0.5 of a stream of samples that goes on for ever is not a number of batches."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= least):
        return
    raise ConfigError(
        f"trainer.{key}",
        required=f"a whole number of at least {least}",
        given=f"{value!r} ({type(value).__name__})",
        mend="write a whole number, without quotes or a decimal point",
    )


def check_exp_manager(exp_manager: Mapping[str, Any]) -> None:
    """Refuse keys that NeMo's exp_manager does not have, its own sections included."""
    if not exp_manager:
        return
    # Imported late: it brings NeMo and Lightning, seconds that a config without the section need not pay.
    from nemo.utils.exp_manager import ExpManagerConfig

    _check_dataclass(exp_manager, ExpManagerConfig, "exp_manager")
    params = exp_manager.get("checkpoint_callback_params") or {}
    for key in ("every_n_train_steps", "save_top_k"):
        if params.get(key) is not None:
            convert(params[key], int, f"exp_manager.checkpoint_callback_params.{key}")


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
            "trainer.devices", required="at least 1, a list or auto", given=devices, mend="devices=1"
        )
    return number


def _check_dataclass(values: Mapping[str, Any], kind: type, path: str) -> None:
    """check_keys on a foreign dataclass and on the dataclasses inside it; values are left alone."""
    hints = typing.get_type_hints(kind)
    check_keys(values, [field.name for field in dataclasses.fields(kind)], path)
    for key, value in values.items():
        inner = [
            hint for hint in (hints[key], *typing.get_args(hints[key])) if dataclasses.is_dataclass(hint)
        ]
        if inner and isinstance(value, Mapping):
            _check_dataclass(value, typing.cast(type, inner[0]), f"{path}.{key}")
