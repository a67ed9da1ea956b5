"""An engine saved and read back: the next steps are the same to the last bit."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nemo_pi.engine.engine import MegatronEngine
from nemo_pi.engine.settings import AdamSettings
from nemo_pi.engine.state import load_engine, load_weights, save_engine
from nemo_pi.errors import CheckpointError
from nemo_pi.model.build import BuildOptions
from tests.unit.engine.loops import SMOOTH, engine_of, random_batch, weights_of
from tests.unit.model.models import SHAPE, plain

pytestmark = pytest.mark.usefixtures("one_rank")

META = {
    "shape": SHAPE.to_dict(),
    "extension": plain().to_dict(),
    "window_source": "a test",
    "global_step": 2,
    "consumed_samples": 8,
    "source_config": None,
}


def train(engine: MegatronEngine, steps: range) -> list[float]:
    losses = []
    for step in steps:
        engine.set_lr(SMOOTH.lr / (step + 1))
        losses.append(engine.forward_backward(random_batch(seed=step)))
        engine.step()
    return losses


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_goes_on_as_if_never_saved(dtype: torch.dtype, sharded: bool, tmp_path: Path) -> None:
    build = BuildOptions(params_dtype=dtype, init_method_std=0.15)
    optim = replace(SMOOTH, use_distributed_optimizer=sharded)
    engine = engine_of(build=build, optim=optim)
    train(engine, range(2))
    save_engine(engine, tmp_path / "saved", META)
    again = engine_of(build=build, optim=optim)
    assert not torch.equal(*(e.chunks[0].output_layer.weight for e in (engine, again)))
    load_engine(again, tmp_path / "saved")
    assert train(again, range(2, 5)) == train(engine, range(2, 5))
    kept = weights_of(engine)
    assert all(torch.equal(kept[name], weight) for name, weight in weights_of(again).items())


QKV = {"self_attention.linear_qkv": 10.0}


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_of_their_own_learning_rate_go_on(dtype: torch.dtype, sharded: bool, tmp_path: Path) -> None:
    build = BuildOptions(params_dtype=dtype, init_method_std=0.15)
    optim = replace(SMOOTH, use_distributed_optimizer=sharded, lr_multipliers=QKV)
    engine = engine_of(build=build, optim=optim)
    train(engine, range(2))
    save_engine(engine, tmp_path / "saved", META)
    again = engine_of(build=build, optim=optim)
    load_engine(again, tmp_path / "saved")
    assert train(again, range(2, 5)) == train(engine, range(2, 5))


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize(("saved", "given"), [(QKV, {}), ({}, QKV), (QKV, {"mlp.linear_fc1": 10.0})])
def test_other_learning_rates_of_layers_are_refused(
    sharded: bool, saved: dict[str, float], given: dict[str, float], tmp_path: Path
) -> None:
    def optim(factors: dict[str, float]) -> AdamSettings:
        return replace(SMOOTH, use_distributed_optimizer=sharded, lr_multipliers=factors)

    engine = engine_of(optim=optim(saved))
    train(engine, range(1))
    save_engine(engine, tmp_path / "saved", META)
    required = "{linear_qkv: 10}" if saved else "null"
    with pytest.raises(CheckpointError, match=f"lr_multipliers={re.escape(required)}, as they were saved"):
        load_engine(engine_of(optim=optim(given)), tmp_path / "saved")


def test_weights_alone_start_a_new_run(tmp_path: Path) -> None:
    """The optimizer forgets: its moments are those of a fresh one."""
    engine = engine_of()
    train(engine, range(2))
    save_engine(engine, tmp_path / "saved", META)
    fresh = engine_of(train=False)
    load_weights(fresh, tmp_path / "saved")
    kept = weights_of(engine)
    assert all(torch.equal(kept[name], weight) for name, weight in weights_of(fresh).items())
    fresh.start_training()
    assert train(fresh, range(2, 3)) == train(engine, range(2, 3))
    assert not torch.equal(
        weights_of(fresh)["output_layer.weight"], weights_of(engine)["output_layer.weight"]
    )
