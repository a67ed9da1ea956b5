"""When replicas talk while layers compute. That it changes no number: tests/integration/test_parity.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nemo_pi.engine.overlap import GRADIENTS, WEIGHTS, overlaps
from nemo_pi.engine.settings import AdamSettings, EngineSettings
from nemo_pi.errors import ConfigError
from nemo_pi.parallel.layout import ParallelLayout
from tests.unit.config.builders import run_of
from tests.unit.model.models import SHAPE, plain


def found(ddp: dict[str, Any], *, sharded: bool = True, replicas: int = 2) -> tuple[bool, bool]:
    settings = EngineSettings(
        SHAPE,
        plain(),
        ParallelLayout(dp=replicas),
        micro_batch_size=1,
        optim=AdamSettings(use_distributed_optimizer=sharded),
        ddp=ddp,
    )
    result = overlaps(settings)
    return result[GRADIENTS], result[WEIGHTS]


@pytest.mark.parametrize("cuda", [False, True])
def test_on_where_cuda_is(cuda: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert found({}) == (cuda, cuda)
    assert found({}, sharded=False) == (cuda, False)
    assert found({}, replicas=1) == found({GRADIENTS: True, WEIGHTS: True}, replicas=1) == (False, False)
    assert found({GRADIENTS: False}) == (False, False)
    assert found({GRADIENTS: True}) == (True, cuda)
    assert found({WEIGHTS: True}) == found({GRADIENTS: True, WEIGHTS: True}) == (True, True)
    assert found({WEIGHTS: False}) == (cuda, False)


@pytest.mark.parametrize(
    ("ddp", "sharded"), [({WEIGHTS: True, GRADIENTS: False}, True), ({WEIGHTS: True}, False)]
)
def test_weights_need_the_other_two(ddp: dict[str, Any], sharded: bool) -> None:
    with pytest.raises(ConfigError, match="overlap_param_gather: required overlap_grad_reduce"):
        found(ddp, sharded=sharded)
    with pytest.raises(ConfigError, match="overlap_param_gather"):
        run_of({**ddp, "use_distributed_optimizer": sharded})
