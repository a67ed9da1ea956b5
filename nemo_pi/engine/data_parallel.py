"""Megatron's data parallelism, without the collectives that a lone replica would hold with itself."""

from __future__ import annotations

from typing import Any

from megatron.core.distributed import DistributedDataParallel


class ReplicatedModule(DistributedDataParallel):
    """Megatron's DDP; where no other rank holds the same weights, it reduces and gathers nothing.

    Its gradient buffers are used either way. A sum over one rank is what it was, and the distributed
    optimizer's only shard is all of the weights, updated where they lie; gloo would copy them all the same.
    """

    @property
    def alone(self) -> bool:
        """Whether this rank is the only one, context-parallel ranks counted, with these weights."""
        return bool(self.dp_cp_group.size() == 1)

    def finish_grad_sync(self, *args: Any, **kwargs: Any) -> None:
        """Sums gradients over the replicas."""
        if not self.alone:
            super().finish_grad_sync(*args, **kwargs)

    def start_param_sync(self, *args: Any, **kwargs: Any) -> None:
        """Gathers what each replica's optimizer has updated."""
        if not self.alone:
            super().start_param_sync(*args, **kwargs)
