"""Writing Megatron's torch_dist format, in this process and in steps that all ranks finish together.

`megatron.core.dist_checkpointing.save` does work of a single rank between its collectives: it serialises
objects, validates, and lets the first rank write `common.pt`. A rank that fails there leaves the others
waiting in the next collective until the process group times out. So its parts are called one by one, those
that can fail inside `together`; torch's own save, the last of them, tells every rank of a failure itself.

Megatron's writer moreover forks a process per file and keeps a spawned manager alive. torch's in-process
writer, used here, makes the same files from the same planner.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config
from megatron.core.dist_checkpointing.state_dict_utils import save_preprocess
from megatron.core.dist_checkpointing.strategies import torch as megatron_torch
from megatron.core.dist_checkpointing.validation import determine_global_metadata, validate_sharding_integrity
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint import FileSystemWriter

from nemo_pi.checkpoint.collective import Group, gather_objects, on_first, together
from nemo_pi.checkpoint.manifest import COMMON_FILE
from nemo_pi.checkpoint.safe_pickle import load_archive
from nemo_pi.checkpoint.space import check_space

_FEWER = "keep fewer checkpoints (exp_manager.checkpoint_callback_params.save_top_k)"


def write_state(sharded_state_dict: dict[str, Any], folder: Path, group: Group) -> None:
    """Writes `.distcp` files, `.metadata`, `common.pt` and `metadata.json`; collective over the world group.

    Args:
        sharded_state_dict: Megatron's; only main replicas are written. Its factories are applied in place.
        folder: exists and is empty of these files.
        group: of all ranks that save, to tell each other of failures.

    Raises:
        CheckpointError: objects that the restricted unpickler would refuse later.
        Exception, CheckpointException: any other failure; every rank raises.
    """
    what = str(folder)
    sharded, common = together(what, lambda: save_preprocess(sharded_state_dict, False), group)
    archive = together(what, lambda: _common_archive(common), group)
    state = together(what, lambda: _torch_state(sharded), group)
    needed = sum(gather_objects(len(archive) + _num_bytes(state), group))
    on_first(what, lambda: check_space(folder, needed, "this checkpoint", _FEWER), group)
    _, of_all_ranks = determine_global_metadata(sharded)
    # It begins with a broadcast of what the line above the last has serialised once already, and so waits
    # for no rank that may fail.
    together(what, lambda: validate_sharding_integrity(of_all_ranks, common_state_dict=common), group)
    on_first(what, lambda: _write_central(archive, folder), group)
    dcp.save(
        state,
        # Synced, because the manifest that declares these files whole is written after them.
        storage_writer=FileSystemWriter(folder, sync_files=True),
        # Only main replicas are in the state: nothing is there twice.
        planner=megatron_torch.MCoreSavePlanner(dedup_replicated_tensors=False, flatten_state_dict=False),
    )


def _common_archive(common: dict[str, Any]) -> bytes:
    """What every rank has alike, serialised; refused now if it could not be read back at the next start."""
    buffer = io.BytesIO()
    torch.save(common, buffer)
    load_archive(io.BytesIO(buffer.getvalue()), COMMON_FILE)
    return buffer.getvalue()


def _torch_state(sharded: dict[str, Any]) -> dict[str, Any]:
    """The state as torch's checkpointing takes it, every object serialised and checked like the above."""
    grouped, _, _ = megatron_torch._replace_state_dict_keys_with_sharded_keys(
        sharded, keep_only_main_replica=True
    )
    state: dict[str, Any] = megatron_torch.mcore_to_pyt_state_dict(grouped, is_loading=False)
    for name, value in state.items():
        if isinstance(value, io.BytesIO):
            load_archive(io.BytesIO(value.getvalue()), name)
    return state


def _num_bytes(state: dict[str, Any]) -> int:
    """What this rank writes of a state; headers and indices add some KiB."""
    return sum(_size(value) for value in state.values())


def _size(value: Any) -> int:
    if isinstance(value, io.BytesIO):
        return len(value.getvalue())
    if isinstance(value, torch.Tensor):
        shards = value.local_shards() if hasattr(value, "local_shards") else [value]
        return sum(getattr(shard, "tensor", shard).nbytes for shard in shards)
    if isinstance(value, list | tuple):
        return sum(map(_size, value))
    return 0


def _write_central(archive: bytes, folder: Path) -> None:
    (folder / COMMON_FILE).write_bytes(archive)
    save_config(CheckpointingConfig("torch_dist", 1), str(folder))
