from __future__ import annotations

import inspect
from typing import Any

import pytest
from lightning.pytorch import Trainer
from omegaconf import OmegaConf

from nemo_pi.config.trainer_keys import check_trainer, trainer_number, world_size_of
from nemo_pi.errors import ConfigError


def test_trainer_takes_lightning_s_keys() -> None:
    check_trainer(
        {
            "devices": 8,
            "num_nodes": 2,
            "accelerator": "gpu",
            "precision": "bf16",
            "max_steps": 10,
            "max_time": "00:03:45:00",
            "logger": False,
            "gradient_clip_val": 1.0,
            "val_check_interval": 100,
            "limit_val_batches": 0,
            "accumulate_grad_batches": 1,
            "use_distributed_sampler": False,
            "strategy": None,
            # As users' YAMLs spell out Lightning's own defaults.
            "max_epochs": -1,
            "limit_train_batches": 1.0,
            "gradient_clip_algorithm": "norm",
            "benchmark": False,
        }
    )


def test_trainer_takes_lightning_s_own_defaults() -> None:
    """But a strategy, and a sampler of Lightning's, which it would make by default."""
    parameters = inspect.signature(Trainer.__init__).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items() if name != "self"}
    assert len(defaults) > 30
    check_trainer(defaults | {"strategy": None, "use_distributed_sampler": False})


@pytest.mark.parametrize(
    ("trainer", "key", "words"),
    [
        ({"max_step": 1}, "max_step", "did you mean trainer.max_steps?"),
        ({"gpus": 1}, "gpus", "trainer"),
        ({"self": 1}, "self", "trainer"),
        ({"strategy": "ddp"}, "strategy", "Megatron"),
        ({"plugins": []}, "plugins", "precision"),
        ({"callbacks": ["x"]}, "callbacks", "exp_manager"),
        ({"accumulate_grad_batches": 4}, "accumulate_grad_batches", "global_batch_size"),
        ({"val_check_interval": 0.5}, "val_check_interval", "whole"),
        ({"limit_val_batches": 1.0}, "limit_val_batches", "whole"),
        ({"log_every_n_steps": 0}, "log_every_n_steps", "at least 1"),
        ({"num_nodes": True}, "num_nodes", "whole"),
        ({"num_sanity_val_steps": "x"}, "num_sanity_val_steps", "whole"),
        ({"enable_progress_bar": 0}, "enable_progress_bar", "true or false"),
        ({"accelerator": "tpu"}, "accelerator", "auto, cpu, gpu, cuda"),
        ({"accelerator": None}, "accelerator", "auto, cpu, gpu, cuda"),
        ({"logger": True}, "logger", "create_tensorboard_logger"),
        ({"enable_checkpointing": True}, "enable_checkpointing", "checkpoint_callback_params"),
        ({"use_distributed_sampler": True}, "use_distributed_sampler", "false or null"),
        ({"limit_train_batches": 1}, "limit_train_batches", "trainer.max_steps"),
        ({"fast_dev_run": True}, "fast_dev_run", "dry_run=true"),
        ({"max_epochs": 0}, "max_epochs", "max_steps"),
        ({"max_time": "soon"}, "max_time", "00:03:45:00"),
    ],
)
def test_trainer_refuses(trainer: dict[str, Any], key: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_trainer(trainer)
    assert caught.value.field == f"trainer.{key}"
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("trainer", "environ", "expected"),
    [
        ({"devices": 4, "num_nodes": 2}, {}, 8),
        ({"devices": "4"}, {}, 4),
        ({"devices": [0, 2, 5]}, {}, 3),
        ({"devices": "0,1"}, {}, 2),
        ({"devices": 1}, {"WORLD_SIZE": "16"}, 16),
        (OmegaConf.create({"devices": [0, 1], "num_nodes": 3}), {}, 6),
    ],
)
def test_world_size(trainer: Any, environ: dict[str, str], expected: int) -> None:
    assert world_size_of(trainer, environ) == expected


def test_automatic_devices_are_the_machine_s() -> None:
    import torch

    assert world_size_of({}, {}) == world_size_of({"devices": -1}, {}) == max(1, torch.cuda.device_count())


@pytest.mark.parametrize("devices", [0, "x", -2])
def test_impossible_devices_are_refused(devices: Any) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.devices"):
        world_size_of({"devices": devices}, {})


def test_trainer_number() -> None:
    assert trainer_number({}, "gradient_clip_val", float, None) is None
    assert trainer_number({"gradient_clip_val": 1}, "gradient_clip_val", float, None) == 1.0
    with pytest.raises(ConfigError, match=r"trainer\.gradient_clip_val"):
        trainer_number({"gradient_clip_val": "one"}, "gradient_clip_val", float, None)
