"""Megatron's distributed Adam for the tests of resuming."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer

from nemo_pi.engine.optimizer import load_states, prepare_to_load
from nemo_pi.parallel.cpu_shim import cpu_shim
from tests.unit.checkpoint.models import model_state

RESHARDABLE = {"distrib_optim_sharding_type": "fully_reshardable"}


class Adam:
    """Megatron's optimizer over this rank's chunks, fed with gradients that depend on names only."""

    def __init__(self, chunks: list[GPTModel]) -> None:
        self.chunks = chunks
        ddp = DistributedDataParallelConfig(use_distributed_optimizer=True, grad_reduce_in_fp32=True)
        config = OptimizerConfig(
            optimizer="adam", lr=1e-2, weight_decay=0.0, clip_grad=0.0, use_distributed_optimizer=True
        )
        with cpu_shim():
            self.wrapped = [DistributedDataParallel(chunk.config, ddp, chunk) for chunk in chunks]
            self.optimizer: Any = get_megatron_optimizer(config, self.wrapped, use_gloo_process_groups=False)

    def step(self, seed: int) -> None:
        """One update. Gradients are a function of the weights and the seed, so alike at any layout."""
        for chunk in self.chunks:
            for parameter in chunk.parameters():
                parameter.main_grad.copy_(torch.sin(parameter.detach() * 50 * (seed + 1)))
        with cpu_shim():
            self.optimizer.step()

    def state(self, loading: bool) -> dict[str, Any]:
        """Sharded state of model and optimizer."""
        model = model_state(self.chunks)
        with cpu_shim():
            if loading:
                prepare_to_load(self.optimizer)
            optimizer = self.optimizer.sharded_state_dict(model, is_loading=loading, metadata=RESHARDABLE)
        return {**model, "optimizer": optimizer}

    def load(self, state: dict[str, Any]) -> None:
        """Takes a loaded state over."""
        for number, chunk in enumerate(self.chunks):
            chunk.load_state_dict(state[f"model{number}"])
        with cpu_shim():
            load_states(self.optimizer, state["optimizer"])
