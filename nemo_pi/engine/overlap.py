"""Communication between replicas while layers compute: on where CUDA is, elsewhere where it is asked for.

Megatron's training loop does for these two what the engine does: it hands the schedule a context in which no
gradient is reduced (all micro-batches but the last), and gathers weights before it reads them. Run over gloo;
not yet on a GPU.
"""

from __future__ import annotations

import torch

from nemo_pi.engine.settings import EngineSettings
from nemo_pi.errors import ConfigError

GRADIENTS, WEIGHTS = "overlap_grad_reduce", "overlap_param_gather"
"""Options of Megatron's DistributedDataParallelConfig, and keys of `model`."""


def overlaps(settings: EngineSettings) -> dict[str, bool]:
    """Both as asked for, or on where CUDA is; off where this replica has nobody to talk to.

    Raises:
        ConfigError: weights are to be gathered so, without the distributed optimizer or overlap_grad_reduce.
    """
    asked = {name: settings.ddp.get(name) for name in (GRADIENTS, WEIGHTS)}
    sharded = settings.optim.use_distributed_optimizer
    if asked[WEIGHTS] and (not sharded or asked[GRADIENTS] is False):
        raise ConfigError(
            f"model.{WEIGHTS}",
            required=f"{GRADIENTS} and use_distributed_optimizer, on which Megatron builds it",
            given=f"true with {GRADIENTS}={asked[GRADIENTS]} and use_distributed_optimizer={sharded}",
            fix="set both to true, or this one to null",
        )
    if settings.layout.dp * settings.layout.cp == 1:
        return {GRADIENTS: False, WEIGHTS: False}
    usual = torch.cuda.is_available()
    # Whoever asks for the second asks for the first as well, on which Megatron builds it.
    gradients = usual or bool(asked[WEIGHTS]) if asked[GRADIENTS] is None else bool(asked[GRADIENTS])
    weights = usual and gradients and sharded if asked[WEIGHTS] is None else bool(asked[WEIGHTS])
    return {GRADIENTS: gradients, WEIGHTS: weights}
