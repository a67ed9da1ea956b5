"""Planted in forked ranks before the script: mistakes to be noticed, and ends before their time."""

from __future__ import annotations

import os
import signal
from typing import Any


def shift_positions_on_last_rank() -> None:
    """The second half of each sample is one position further, on one rank only."""
    from nemo_pi.training import engine

    original = engine.micro_batches

    def shifted(batch: dict[str, Any], *args: Any) -> Any:
        positions = batch["position_ids"].clone()
        positions[:, positions.size(1) // 2 :] += 1
        return original({**batch, "position_ids": positions}, *args)

    if _is_last_rank():
        engine.micro_batches = shifted


def keep_gradients_apart() -> None:
    """Replicas do not add their gradients up."""
    from megatron.core.distributed import DistributedDataParallel

    DistributedDataParallel.finish_grad_sync = lambda *_, **__: None


def forget_norms_under_sequence_parallelism() -> None:
    """Gradients of norm weights are not added up over the parts of a sequence."""
    from nemo_pi.model import norm

    original = norm.RMSNorm.__init__

    def unmarked(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.weight.sequence_parallel = False

    norm.RMSNorm.__init__ = unmarked  # type: ignore[method-assign]


def forget_shared_embedding() -> None:
    """The gradients of a shared embedding are not added up over the first and the last stage."""
    from megatron.core.distributed import finalize_model_grads

    finalize_model_grads.__globals__["_allreduce_word_embedding_grads"] = lambda *_, **__: None


def give_replicas_the_same_samples() -> None:
    """Every replica reads the first one's share of a batch."""
    from nemo_pi.training import loaders

    original = loaders.ConsecutiveSampler
    loaders.ConsecutiveSampler = lambda **kwargs: original(**{**kwargs, "dp_rank": 0})  # type: ignore[assignment,misc]


def signal_at_step(step: int, number: int, last_rank_only: bool) -> None:
    """Sends the process a signal where gradients of `step` are ready and weights are not yet updated."""
    from nemo_pi.training.engine import MegatronEngine

    _signal_at_call(MegatronEngine, "step", step, number, last_rank_only)


def kill_while_saving(save: int) -> None:
    """Kills the process in its checkpoint number `save`, when tensors are written and the manifest is not."""
    from nemo_pi.checkpoint import distributed

    _signal_at_call(distributed, "_seal", save, signal.SIGKILL, False)


def _signal_at_call(owner: Any, name: str, call: int, number: int, last_rank_only: bool) -> None:
    original, calls = getattr(owner, name), [0]

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == call and (_is_last_rank() or not last_rank_only):
            os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    setattr(owner, name, counted)


def _is_last_rank() -> bool:
    return int(os.environ.get("RANK", 0)) == int(os.environ.get("WORLD_SIZE", 1)) - 1
