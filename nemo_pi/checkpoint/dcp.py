"""Megatron's distributed-checkpoint strategies, without helper processes and without trusting pickles.

Megatron's own writer forks a process per file and keeps a spawned manager alive; its reader hands
`.metadata` and objects to the plain unpickler. These two use the same file format and the same planners
on top of torch's in-process writer and the restricted unpicklers of `safe_pickle`.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor
from megatron.core.dist_checkpointing.strategies import torch as megatron_torch
from megatron.core.dist_checkpointing.strategies.base import LoadCommonStrategy, SaveShardedStrategy
from megatron.core.dist_checkpointing.strategies.common import COMMON_STATE_FNAME
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter, Metadata, ReadItem
from torch.distributed.checkpoint._nested_dict import set_element

from nemo_pi.checkpoint.safe_pickle import load_archive, read_metadata

METADATA_FILE = ".metadata"
COMMON_FILE = COMMON_STATE_FNAME


class InProcessSave(SaveShardedStrategy):
    """Writes one `.distcp` file per rank in this process, synced to the disk."""

    def __init__(self) -> None:
        super().__init__("torch_dist", 1)

    @property
    def can_handle_sharded_objects(self) -> bool:
        """Objects are written beside tensors."""
        return True

    def save(self, sharded_state_dict: Any, checkpoint_dir: str | Path) -> None:
        """Collective over the world group; only main replicas write."""
        grouped, _, _ = megatron_torch._replace_state_dict_keys_with_sharded_keys(
            sharded_state_dict, keep_only_main_replica=True
        )
        state = megatron_torch.mcore_to_pyt_state_dict(grouped, is_loading=False)
        for name, value in state.items():
            # What the restricted unpickler would refuse must be refused now, not at the next start.
            if isinstance(value, io.BytesIO):
                load_archive(io.BytesIO(value.getvalue()), name)
        dcp.save(
            state,
            storage_writer=FileSystemWriter(checkpoint_dir, sync_files=True),
            planner=megatron_torch.MCoreSavePlanner(dedup_replicated_tensors=False, flatten_state_dict=False),
        )


class SafeReader(FileSystemReader):
    """torch's reader, with `.metadata` read through the allow-list, once."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder)
        self._metadata = read_metadata(Path(folder) / METADATA_FILE)

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """What `__init__` has read."""
        return self._metadata


class SafeLoadPlanner(megatron_torch.MCoreLoadPlanner):
    """Megatron's planner, with objects read through torch's restricted unpickler."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Unpickles one object into the state dict."""
        name = read_item.dest_index.fqn
        set_element(self.original_state_dict, self.mappings[name], load_archive(value, name))


class SafeLoad(megatron_torch.TorchDistLoadShardedStrategy):
    """Megatron's loader on top of the two above."""

    def load(self, sharded_state_dict: Any, checkpoint_dir: str | Path) -> Any:
        """Fills the state dict; collective over the world group."""
        tensors = [
            value
            for value in megatron_torch.nested_values(sharded_state_dict)
            if isinstance(value, ShardedTensor)
        ]
        grouped, flat_mapping, renamed = megatron_torch._replace_state_dict_keys_with_sharded_keys(
            sharded_state_dict
        )
        flexible = {tensor.key: tensor for tensor in tensors if tensor.allow_shape_mismatch}
        state = megatron_torch.mcore_to_pyt_state_dict(grouped, is_loading=True)
        dcp.load(
            state,
            storage_reader=SafeReader(checkpoint_dir),
            planner=SafeLoadPlanner(
                shapes_validation_sharded_tensors=[
                    tensor for tensor in tensors if not tensor.allow_shape_mismatch
                ],
                allow_shape_mismatch_sharded_tensors=flexible,
            ),
        )
        plain = {key: megatron_torch._unwrap_pyt_sharded_tensor(value) for key, value in state.items()}
        loaded = megatron_torch._replace_sharded_keys_with_state_dict_keys(plain, flat_mapping, renamed)
        megatron_torch._restore_dict_types(loaded, sharded_state_dict)
        return loaded

    def load_tensors_metadata(self, checkpoint_dir: str | Path, metadata: Metadata | None = None) -> Any:
        """{key: ShardedTensor without data} of everything stored."""
        return super().load_tensors_metadata(
            Path(checkpoint_dir), metadata or SafeReader(checkpoint_dir).read_metadata()
        )

    def load_sharded_metadata(self, checkpoint_dir: str | Path) -> Any:
        """As load_tensors_metadata, objects included."""
        metadata = SafeReader(checkpoint_dir).read_metadata()
        objects = {
            key: ShardedObject.empty_from_unique_key(key)
            for key, stored in metadata.state_dict_metadata.items()
            if isinstance(stored, dcp.BytesStorageMetadata)
        }
        return {**objects, **self.load_tensors_metadata(checkpoint_dir, metadata)}


class SafeLoadCommon(LoadCommonStrategy):
    """Reads `common.pt`, the part that every rank has alike, through the allow-list."""

    @property
    def can_handle_sharded_objects(self) -> bool:
        """Sharded objects are in the `.distcp` files."""
        return False

    def load_common(self, checkpoint_dir: str | Path) -> Any:
        """The common state dict."""
        path = Path(checkpoint_dir) / COMMON_FILE
        return load_archive(path, str(path))

    def load_sharded_objects(self, sharded_objects_state_dict: Any, checkpoint_dir: str | Path) -> Any:
        """Never asked for."""
        raise NotImplementedError("sharded objects are read by SafeLoad")

    def check_backend_compatibility(self, loaded_backend: str) -> None:
        """There is one backend."""

    def check_version_compatibility(self, loaded_version: int) -> None:
        """There is one version."""
