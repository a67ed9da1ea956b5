"""A first step that fails because of an option of Megatron's names the option's key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.errors import ConfigError, DataError
from nemo_pi.nemo.first_step import options_named
from tests.unit.config.builders import run_of
from tests.unit.nemo.runs import fit, resolved


def with_options(run: ResolvedRun, **options: object) -> ResolvedRun:
    return replace(run, engine=replace(run.engine, build=replace(run.engine.build, megatron=options)))


@pytest.mark.usefixtures("one_rank")
def test_layers_that_cannot_compute_with_an_option(inputs: Path, tmp_path: Path) -> None:
    """Megatron's configuration takes it with 16-bit weights; its linear layers then meet fp32 inputs."""
    run = with_options(resolved(inputs, tmp_path, trainer__precision="bf16"), fp32_residual_connection=True)
    with pytest.raises(ConfigError, match=r"fp32_residual_connection=True.*same dtype") as caught:
        fit(run)
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.usefixtures("one_rank")
def test_an_option_that_its_optimizer_does_not_know(inputs: Path, tmp_path: Path) -> None:
    run = resolved(inputs, tmp_path)
    optim = replace(run.engine.optim, megatron={"warp": 9})
    with pytest.raises(ConfigError, match=r"^warp: .*with which making the optimizer failed: TypeError"):
        fit(replace(run, engine=replace(run.engine, optim=optim)))


def test_what_is_not_an_option_s_fault() -> None:
    run = run_of({"bias_dropout_fusion": False})
    with (
        pytest.raises(ConfigError, match=r"^model\.bias_dropout_fusion: .*ValueError: no"),
        options_named(run, "it"),
    ):
        raise ValueError("no")
    for error in (DataError("a", required="b", given="c", fix="d"), torch.OutOfMemoryError()):
        with pytest.raises(type(error)), options_named(run, "it"):
            raise error
    with pytest.raises(ValueError, match="no"), options_named(run_of(), "it"):
        raise ValueError("no")
