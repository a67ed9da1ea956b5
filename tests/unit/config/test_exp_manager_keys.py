from __future__ import annotations

from typing import Any

import pytest

from nemo_pi.config.exp_manager_keys import check_exp_manager
from nemo_pi.errors import ConfigError

PARAMS = "checkpoint_callback_params"


def test_exp_manager_takes_nemo_s_keys_at_every_level() -> None:
    check_exp_manager(
        {
            "exp_dir": "results",
            "resume_if_exists": True,
            "create_wandb_logger": False,
            "wandb_logger_kwargs": {"project": "p", "anything": 1},
            PARAMS: {"save_top_k": -1, "every_n_train_steps": 10, "monitor": "val_loss", "mode": "min"},
            "ema": {"enable": False},
            "early_stopping_callback_params": None,
            "max_time_per_run": "00:03:45:00",
            "resume_from_checkpoint": None,
        }
    )


@pytest.mark.parametrize(
    ("exp_manager", "key", "suggestion"),
    [
        ({"exp_dirs": "x"}, "exp_dirs", "exp_manager.exp_dir"),
        (
            {"checkpoint_callback_params": {"save_top_k": "all"}},
            "checkpoint_callback_params.save_top_k",
            "quotes",
        ),
        (
            {"checkpoint_callback_params": {"save_topk": 1}},
            "checkpoint_callback_params.save_topk",
            "save_top_k",
        ),
        # --- types
        ({"exp_dir": 5}, "exp_dir", "quotes"),
        ({"name": 2024}, "name", "quotes"),
        ({"resume_if_exists": "yes"}, "resume_if_exists", "true or false"),
        ({"seconds_to_sleep": "x"}, "seconds_to_sleep", "quotes"),
        ({PARAMS: "abc"}, PARAMS, "under it"),
        ({PARAMS: {"dirpath": 5}}, f"{PARAMS}.dirpath", "quotes"),
        ({PARAMS: {"every_n_train_steps": -5}}, f"{PARAMS}.every_n_train_steps", "at the end"),
        ({PARAMS: {"save_top_k": -2}}, f"{PARAMS}.save_top_k", "-1 keeps all"),
        ({"max_time_per_run": 3600}, "max_time_per_run", "00:03:45:00"),
        ({"max_time_per_run": "4h"}, "max_time_per_run", "00:03:45:00"),
        # --- what is not done here
        ({"ema": {"enable": True}}, "ema.enable", "remove"),
        ({"resume_from_checkpoint": "/x"}, "resume_from_checkpoint", "restore_from_path"),
        ({PARAMS: {"always_save_nemo": True}}, f"{PARAMS}.always_save_nemo", "save_to"),
        ({PARAMS: {"async_save": True}}, f"{PARAMS}.async_save", "false"),
    ],
)
def test_exp_manager_refuses(exp_manager: dict[str, Any], key: str, suggestion: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_exp_manager(exp_manager)
    assert caught.value.field == f"exp_manager.{key}"
    assert suggestion in caught.value.fix
