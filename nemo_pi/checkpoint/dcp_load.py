"""Reading Megatron's torch_dist format without trusting its pickles, in steps that all ranks finish together.

`megatron.core.dist_checkpointing.load` hands `.metadata`, `common.pt` and objects to the plain unpickler, and
leaves ranks waiting for one that failed between its collectives (a tensor that is missing on one pipeline
stage is enough). Its parts are called one by one here: see `dcp_save`.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from megatron.core.dist_checkpointing.dict_utils import merge, nested_values
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor, apply_factory_merges
from megatron.core.dist_checkpointing.state_dict_utils import load_preprocess
from megatron.core.dist_checkpointing.strategies import torch as megatron_torch
from megatron.core.dist_checkpointing.utils import extract_sharded_base, force_all_tensors_to_non_fp8
from megatron.core.dist_checkpointing.validation import determine_global_metadata, validate_sharding_integrity
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint import FileSystemReader, Metadata, ReadItem
from torch.distributed.checkpoint._nested_dict import set_element

from nemo_pi.checkpoint.collective import Group, together
from nemo_pi.checkpoint.manifest import COMMON_FILE, METADATA_FILE
from nemo_pi.checkpoint.safe_pickle import check_part, load_archive, read_metadata
from nemo_pi.errors import CheckpointError

# Transformer Engine unpickles the bytes in these itself, without restriction. They hold FP8 scaling
# histories only, which build up again within some steps, so none is ever handed to it.
_EXTRA_STATE = "._extra_state/"


class SafeReader(FileSystemReader):
    """torch's reader, with `.metadata` read through the allow-list, once."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.metadata = read_metadata(folder / METADATA_FILE)

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """What `__init__` has read."""
        return self.metadata

    def _slice_file(self, file: Any, sinfo: Any) -> Any:
        """The archive of one tensor or object, which torch reads next."""
        check_part(file, (sinfo.offset, sinfo.length), str(self.path / sinfo.relative_path))
        return super()._slice_file(file, sinfo)


class SafeLoadPlanner(megatron_torch.MCoreLoadPlanner):
    """Megatron's planner, with objects read through torch's restricted unpickler."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Unpickles one object into the state dict."""
        name = read_item.dest_index.fqn
        loaded = load_archive(value, name)
        if _EXTRA_STATE in name:
            loaded = [None] * len(loaded)
        set_element(self.original_state_dict, self.mappings[name], loaded)


def read_state(sharded_state_dict: dict[str, Any], folder: Path, group: Group) -> dict[str, Any]:
    """Fills a state dict from the files that `write_state` makes; collective over the world group.

    Args:
        sharded_state_dict: Megatron's, of this run's own layout; it may ask for less than is stored.
        folder: of a checkpoint that `check_checkpoint` has passed.
        group: of all ranks that load, to tell each other of failures.

    Raises:
        CheckpointError: unsafe pickles, or tensors that are not stored.
        Exception, CheckpointException: any other failure; every rank raises.
    """
    what = str(folder)
    sharded, common, factories, reader = together(what, lambda: _prepare(sharded_state_dict, folder), group)
    # A collective, so it stands between two `together`: every rank has come this far, or none.
    _, of_all_ranks = determine_global_metadata(sharded)
    together(what, lambda: validate_sharding_integrity(of_all_ranks), group)
    loaded = together(what, lambda: _read_shards(sharded, reader), group)
    merge(common, loaded)
    return apply_factory_merges(common, factories)


def _prepare(
    state: dict[str, Any], folder: Path
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], SafeReader]:
    """What to read from shards, what every rank has alike, how to join tensors again, and the reader."""
    reader = SafeReader(folder)
    common = load_archive(folder / COMMON_FILE, str(folder / COMMON_FILE))
    force_all_tensors_to_non_fp8(state)
    sharded, own, factories = load_preprocess(state)
    merge(common, own)
    sharded, _ = extract_sharded_base(sharded)
    _check_stored(sharded, reader)
    return sharded, common, factories, reader


def _check_stored(sharded: dict[str, Any], reader: SafeReader) -> None:
    asked = {
        value.unique_key if isinstance(value, ShardedObject) else value.key
        for value in nested_values(sharded)
    }
    if missing := sorted(asked - set(reader.metadata.state_dict_metadata)):
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise CheckpointError(
            str(reader.path),
            required=", ".join(map(repr, missing[:3])) + more,
            given="none stored under that name",
            fix="build the model from the checkpoint's own sizes (nemo_pi.json: shape)",
        )


def _read_shards(sharded: dict[str, Any], reader: SafeReader) -> dict[str, Any]:
    """torch's load (it tells every rank of a failure), between Megatron's translations there and back."""
    tensors = [value for value in nested_values(sharded) if isinstance(value, ShardedTensor)]
    flexible = {tensor.key: tensor for tensor in tensors if tensor.allow_shape_mismatch}
    grouped, flat_mapping, renamed = megatron_torch._replace_state_dict_keys_with_sharded_keys(sharded)
    state = megatron_torch.mcore_to_pyt_state_dict(grouped, is_loading=True)
    dcp.load(
        state,
        storage_reader=reader,
        planner=SafeLoadPlanner(
            shapes_validation_sharded_tensors=[t for t in tensors if not t.allow_shape_mismatch],
            allow_shape_mismatch_sharded_tensors=flexible,
        ),
    )
    plain = {key: megatron_torch._unwrap_pyt_sharded_tensor(value) for key, value in state.items()}
    loaded: dict[str, Any] = megatron_torch._replace_sharded_keys_with_state_dict_keys(
        plain, flat_mapping, renamed
    )
    megatron_torch._restore_dict_types(loaded, sharded)
    return loaded
