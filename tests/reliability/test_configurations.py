"""A configuration from a stranger names values, never code, by whatever road."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import OmegaConf

from nemo_pi.config.load import merge
from nemo_pi.errors import ConfigError

TARGET = "{_target_: os.system, command: touch ran}"
ROADS: dict[str, dict[str, Any]] = {
    "a section": {"model": OmegaConf.create(TARGET)},
    "an extra argument": {"model": {"pos_scaling_extra_args": OmegaConf.create(TARGET)}},
    "a list in a mapping": {"model": {"data": {"data_prefix": {"train": [[OmegaConf.create(TARGET)]]}}}},
    "Lightning's arguments": {"trainer": {"profiler": OmegaConf.create(TARGET)}},
    "a logger's arguments": {
        "exp_manager": {"wandb_logger_kwargs": {"experiment": OmegaConf.create(TARGET)}}
    },
    "text that becomes a mapping": {"trainer": {"profiler": f'${{oc.decode:"{TARGET}"}}'}},
    "a mapping from elsewhere": {
        "exp_manager": {"summary_writer_kwargs": "${oc.create:${oc.decode:'" + TARGET + "'}}"},
    },
    "another section's": {
        "model": {"tokenizer": "${trainer.profiler}"},
        "trainer": {"profiler": OmegaConf.create(TARGET)},
    },
    "text from the environment": {"trainer": {"profiler": "${oc.decode:${oc.env:A_TARGET}}"}},
}


@pytest.mark.parametrize("values", ROADS.values(), ids=ROADS.keys())
def test_a_target_is_refused(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TARGET", TARGET)
    with pytest.raises(ConfigError, match="_target_: required no _target_"):
        merge(OmegaConf.create(values))
