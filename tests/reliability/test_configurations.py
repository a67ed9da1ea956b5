"""A configuration from a stranger names values, never code, by whatever road."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from nemo_pi.cli.evaluate_arguments import parse
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


@pytest.mark.parametrize("scheme", ["pkg", "structured"])
def test_an_evaluation_looks_into_no_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    (tmp_path / "traced.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "evaluate.yaml").write_text(f"hydra: {{searchpath: ['{scheme}://traced']}}\nmodels: [m]\n")
    with pytest.raises(ConfigError, match=r"hydra\.searchpath"):
        parse(arguments=["--config-path", str(tmp_path)])
    assert "traced" not in sys.modules


def test_an_evaluation_s_values_name_no_code() -> None:
    for override in ("tasks.perplexity._target_=os.system", "_target_=os.system"):
        with pytest.raises(ConfigError, match="_target_"):
            parse(arguments=["m", override])
