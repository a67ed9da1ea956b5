"""The only reader of Megatron's global process groups; everything above asks here or is handed a group."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel

from nemo_pi.parallel import orphans
from nemo_pi.parallel.layout import ParallelLayout


def default_backend() -> str:
    """`nccl` where there is a GPU, `gloo` on the CPU."""
    return "nccl" if torch.cuda.is_available() else "gloo"


def device() -> torch.device:
    """The device of this rank."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def ensure_process_group() -> None:
    """Joins the launcher's process group, or makes one of a single rank when there is no launcher."""
    if dist.is_initialized():
        return
    if "RANK" in os.environ and "MASTER_ADDR" in os.environ:
        orphans.watch_launcher()
        if torch.cuda.is_available():
            # Before the group is made: NCCL works on the current device of each rank.
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        dist.init_process_group(default_backend())
    else:
        # In memory: a lone rank needs no port, which another run could hold already.
        dist.init_process_group(default_backend(), store=dist.HashStore(), rank=0, world_size=1)


def initialize(layout: ParallelLayout, seed: int, timeout_minutes: float = 30.0) -> None:
    """Makes Megatron's process groups for `layout` over the ranks that have joined.

    Args:
        layout: must multiply to the world size (checked where the YAML is read).
        seed: seeds torch, and on a GPU Megatron's per-rank CUDA generators.
        timeout_minutes: how long a rank waits in a collective for the others.
    """
    wanted = (layout.tp, layout.pp, layout.vpp, layout.cp)
    if parallel_state.model_parallel_is_initialized() and _sizes_in_use() != wanted:
        parallel_state.destroy_model_parallel()  # of a stage that was laid out otherwise over the same ranks
    if not parallel_state.model_parallel_is_initialized():
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=layout.tp,
            pipeline_model_parallel_size=layout.pp,
            virtual_pipeline_model_parallel_size=layout.vpp,
            context_parallel_size=layout.cp,
            distributed_timeout_minutes=timeout_minutes,
            # Second data-parallel groups for a checkpoint format that is not used here; each group of gloo's
            # has a thread that wakes a hundred times a second.
            create_gloo_process_groups=False,
        )
    torch.manual_seed(seed)
    if torch.cuda.is_available():
        tensor_parallel.model_parallel_cuda_manual_seed(seed)


def _sizes_in_use() -> tuple[int, int, int | None, int]:
    """TP, PP, VPP and CP of the groups that are up."""
    return (
        tensor_size(),
        pipeline_size(),
        parallel_state.get_virtual_pipeline_model_parallel_world_size(),
        context_size(),
    )


def destroy() -> None:
    """Takes Megatron's groups and the process group down, if they are up."""
    parallel_state.destroy_model_parallel()
    if dist.is_initialized():
        dist.destroy_process_group()


def tensor_rank() -> int:
    """Rank within the tensor-parallel group."""
    return int(parallel_state.get_tensor_model_parallel_rank())


def tensor_size() -> int:
    """Size of the tensor-parallel group."""
    return int(parallel_state.get_tensor_model_parallel_world_size())


def tensor_group() -> dist.ProcessGroup:
    """The tensor-parallel group."""
    return parallel_state.get_tensor_model_parallel_group()


def data_rank() -> int:
    """Rank within the data-parallel group."""
    return int(parallel_state.get_data_parallel_rank())


def data_size() -> int:
    """Size of the data-parallel group."""
    return int(parallel_state.get_data_parallel_world_size())


def data_group(with_context: bool = True) -> dist.ProcessGroup:
    """The data-parallel group, by default with the context-parallel ranks in it."""
    return parallel_state.get_data_parallel_group(with_context_parallel=with_context)


def replica_rank() -> int:
    """Rank among all that hold the same weights: the data-parallel ranks times the context-parallel ones."""
    return int(parallel_state.get_data_parallel_rank(with_context_parallel=True))


def context_rank() -> int:
    """Rank within the context-parallel group."""
    return int(parallel_state.get_context_parallel_rank())


def context_size() -> int:
    """Size of the context-parallel group."""
    return int(parallel_state.get_context_parallel_world_size())


def context_group() -> dist.ProcessGroup:
    """The context-parallel group."""
    return parallel_state.get_context_parallel_group()


def pipeline_rank() -> int:
    """Rank within the pipeline group."""
    return int(parallel_state.get_pipeline_model_parallel_rank())


def pipeline_size() -> int:
    """Size of the pipeline group."""
    return int(parallel_state.get_pipeline_model_parallel_world_size())


def pipeline_group() -> dist.ProcessGroup:
    """The pipeline group."""
    return parallel_state.get_pipeline_model_parallel_group()


def is_first_stage(chunk: int | None) -> bool:
    """Whether model chunk number `chunk` of this rank (None without interleaving) holds the embedding."""
    return bool(parallel_state.is_pipeline_first_stage(ignore_virtual=chunk is None, vp_stage=chunk))


def is_last_stage(chunk: int | None) -> bool:
    """Whether model chunk number `chunk` of this rank (None without interleaving) holds the output layer."""
    return bool(parallel_state.is_pipeline_last_stage(ignore_virtual=chunk is None, vp_stage=chunk))


def broadcast_from_last_stage(tensor: torch.Tensor) -> torch.Tensor:
    """Gives every pipeline rank the last rank's `tensor` (same shape and dtype everywhere), in place."""
    if pipeline_size() > 1:
        dist.broadcast(tensor, parallel_state.get_pipeline_model_parallel_last_rank(), group=pipeline_group())
    return tensor


def gather_over_data(tensor: torch.Tensor, dim: int) -> torch.Tensor:
    """The tensors (same shape everywhere) of all data-parallel replicas, put one behind the other."""
    return _gathered(tensor, dim, data_group(with_context=False))


def gather_over_context(tensor: torch.Tensor, dim: int) -> torch.Tensor:
    """The tensors (same shape everywhere) of all context-parallel ranks, put one behind the other."""
    return _gathered(tensor, dim, context_group())


def _gathered(tensor: torch.Tensor, dim: int, group: dist.ProcessGroup) -> torch.Tensor:
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, tensor.contiguous(), group=group)
    return torch.cat(parts, dim=dim)
