"""Distributed checkpoints: saved whole or not at all, checked before they are read, at any layout.

A checkpoint is a folder of Megatron's torch_dist format plus `nemo_pi.json`, which lists every file with
its size and SHA-256. Everything is written under a hidden name beside the final one and renamed last.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist

from nemo_pi.checkpoint.collective import (
    Group,
    as_checkpoint_error,
    gather_objects,
    on_first,
    rank_in,
    size_of,
    together,
)
from nemo_pi.checkpoint.dcp_load import read_state
from nemo_pi.checkpoint.dcp_save import write_state
from nemo_pi.checkpoint.files import clean_leftovers, real_folder, sync_path, write_json
from nemo_pi.checkpoint.hf.tokenizer import copy_tokenizer
from nemo_pi.checkpoint.integrity import check_checkpoint, check_pickles
from nemo_pi.checkpoint.manifest import (
    CENTRAL_FILES,
    MANIFEST,
    TOKENIZER_FOLDER,
    all_files,
    build_manifest,
    check_sizes,
    file_entries,
    read_manifest,
)
from nemo_pi.checkpoint.whole import written_whole
from nemo_pi.errors import CheckpointError

logger = logging.getLogger(__name__)


def save_distributed(
    folder: str | Path,
    sharded_state_dict: dict[str, Any],
    meta: Mapping[str, Any],
    *,
    tokenizer_path: str | Path | None = None,
    group: Group = None,
    overwrite: bool = False,
    clear_name: bool = False,
) -> Path:
    """Writes a checkpoint; collective over every rank. `folder` appears only once it is complete.

    No extra process is started. Objects in the state dict must be such that they can be read back without
    running code (tensors, numbers, strings, containers); others are refused here, not at the next start.

    Args:
        folder: the new checkpoint's folder; its parent is made if need be.
        sharded_state_dict: Megatron's, model and optimizer; for the distributed optimizer made with
            metadata `{"distrib_optim_sharding_type": "fully_reshardable"}`.
        meta: for the manifest, JSON-ready: shape, extension (their to_dict), global_step,
            consumed_samples; source_config (a Hugging Face config.json to export with) and more at will.
        tokenizer_path: folder whose tokenizer files travel with the checkpoint.
        group: process group of all ranks that save, for barriers and hashes; None is the world.
        overwrite: whether an existing checkpoint of the same name is replaced (after the new one is whole).
        clear_name: whether something else under that name is moved aside, to a name beside it; for runs,
            whose names come from the step and not from a user who could choose another.

    Returns:
        `folder`.

    Raises:
        CheckpointError: on every rank, if any rank failed; earlier checkpoints are as they were, and nothing
            of the new one is left.
    """
    folder = real_folder(folder)

    def check() -> None:
        # For its checks alone: what the manifest cannot hold must fail before gigabytes are written.
        build_manifest(meta, {})
        if folder.exists() and not clear_name:
            _check_replaceable(folder, overwrite)
        if folder.parent.is_dir():
            clean_leftovers(folder.parent)

    with written_whole(
        folder,
        "save",
        check=check,
        keep_aside=lambda found: clear_name and not _looks_like_checkpoint(found),
        fix="check free space and permissions; the previous checkpoint is untouched",
        group=group,
    ) as partial:
        on_first(str(folder), lambda: _take_tokenizer(tokenizer_path, partial), group)
        write_state(sharded_state_dict, partial, group)
        _seal(partial, meta, group)
    return folder


def _take_tokenizer(tokenizer_path: str | Path | None, partial: Path) -> None:
    if tokenizer_path is not None:
        (partial / TOKENIZER_FOLDER).mkdir()
        copy_tokenizer(tokenizer_path, partial / TOKENIZER_FOLDER)


def _check_replaceable(folder: Path, overwrite: bool) -> None:
    given = "a folder that is not a checkpoint"
    if (folder / MANIFEST).is_file():
        try:
            check_sizes(folder, read_manifest(folder))
            given = "a complete checkpoint"
        except CheckpointError as error:
            # A run that skipped it on restart must be able to pass the same step again.
            logger.warning("Replacing a damaged checkpoint: %s", error)
            return
        if overwrite:
            return
    raise CheckpointError(
        str(folder), required="a folder that does not exist yet", given=given, fix="save under another name"
    )


def _looks_like_checkpoint(folder: Path) -> bool:
    """Whether a folder holds a checkpoint, whole or not, and nothing that a save would not write."""
    if not folder.is_dir():
        return False
    ours = {MANIFEST, *CENTRAL_FILES, TOKENIZER_FOLDER}
    return all(path.name in ours or path.suffix == ".distcp" for path in folder.iterdir())


def _seal(partial: Path, meta: Mapping[str, Any], group: Group) -> None:
    """Hashes every file, each rank its own, and writes the manifest last."""
    entries = together(str(partial), lambda: file_entries(partial, _own_files(partial)), group)
    files = {name: entry for part in gather_objects(entries, group) for name, entry in part.items()}
    on_first(str(partial), lambda: _write_manifest(partial, meta, files), group)


def _own_files(partial: Path) -> list[str]:
    """Files this rank wrote. On a network disk other ranks' may not be visible here yet."""
    rank = dist.get_rank()
    mine = sorted(path.name for path in partial.glob(f"__{rank}_*.distcp"))
    if rank == 0:
        mine += [name for name in all_files(partial) if not name.endswith(".distcp")]
    return mine


def _write_manifest(partial: Path, meta: Mapping[str, Any], files: Mapping[str, Any]) -> None:
    # Not all of them were synced when they were written.
    for name in CENTRAL_FILES:
        sync_path(partial / name)
    # A state that its own reader would refuse must not become the latest checkpoint.
    check_pickles(partial)
    write_json(partial / MANIFEST, build_manifest(meta, files))


def load_distributed(
    folder: str | Path,
    sharded_state_dict: dict[str, Any],
    *,
    group: Group = None,
    check_contents: bool = True,
) -> dict[str, Any]:
    """Reads a checkpoint into a state dict of this run's own layout; collective over every rank.

    Args:
        folder: as written by save_distributed, at any TP, PP and DP.
        sharded_state_dict: Megatron's, of the model as it is split now; may ask for less than is stored
            (weights without the optimizer), never for more.
        group: process group of all ranks that load; None is the world.
        check_contents: whether every file's SHA-256 is compared first (each rank reads its share); sizes
            and the pickled files are always checked.

    Returns:
        The filled state dict.

    Raises:
        CheckpointError: incomplete, damaged or unsafe files; tensors missing or of another shape.
    """
    folder = Path(folder)
    share = (rank_in(group), size_of(group)) if check_contents else None
    together(str(folder), lambda: check_checkpoint(folder, share), group)
    with as_checkpoint_error(
        str(folder),
        required="every tensor of this model, in its shape",
        fix="build the model from the checkpoint's own sizes (nemo_pi.json: shape)",
    ):
        return read_state(sharded_state_dict, folder, group)
