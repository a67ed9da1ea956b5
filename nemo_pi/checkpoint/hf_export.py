"""A Megatron model on any TP/PP layout to a Hugging Face folder, written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nemo_pi.arch.shape import ModelShape
from nemo_pi.checkpoint.collective import Group, on_first, together
from nemo_pi.checkpoint.files import finish_folder, partial_folder, read_json, start_folder, write_json
from nemo_pi.checkpoint.hf_config import build_config
from nemo_pi.checkpoint.hf_gather import Key, ModelGroups, gathered_tensors, local_parameters
from nemo_pi.checkpoint.hf_names import expected_tensors
from nemo_pi.checkpoint.hf_shards import ShardWriter
from nemo_pi.checkpoint.hf_tokenizer import GENERATION_CONFIG, copy_tokenizer, extended_generation_config
from nemo_pi.errors import CheckpointError
from nemo_pi.rope.layout import halves_from_interleaved
from nemo_pi.rope.spec import ContextExtension

MARKER = "nemo_pi_export.json"
"""Names the folder as one that an export wrote, so that a later export may replace it."""

DEFAULT_SHARD_BYTES = 5 * 1024**3

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


def export_huggingface(
    model_chunks: Sequence[nn.Module],
    shape: ModelShape,
    extension: ContextExtension,
    folder: str | Path,
    *,
    source_config: Mapping[str, Any] | None = None,
    tokenizer_path: str | Path | None = None,
    dtype: str | None = None,
    groups: ModelGroups | None = None,
    replica_rank: int = 0,
    world: Group = None,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    overwrite: bool = False,
) -> Path:
    """Writes config.json, safetensors and tokenizer; collective over every rank.

    Tensors stream to the writing rank one by one; it never holds more than one shard of them. The folder
    is written under a hidden name and renamed when complete.

    Args:
        model_chunks: this rank's GPTModel chunks.
        shape, extension: of the whole model.
        folder: to write; must not exist, unless an earlier export wrote it or `overwrite` is set.
        source_config: config.json the model came from; its other fields are kept
            (see nemo_pi.checkpoint.summary.read_source_config).
        tokenizer_path: folder with tokenizer files and perhaps generation_config.json.
        dtype: of the stored weights: float32, bfloat16, float16; None means the source's, else the model's.
        groups: this replica's process groups; None where one rank holds the whole model.
        replica_rank: which replica this rank is part of (data × context parallel rank); 0 writes.
        world: process group of all ranks; None is the world.
        max_shard_bytes: size of one safetensors file at most.
        overwrite: whether a folder that no export wrote is replaced.

    Returns:
        `folder`.

    Raises:
        CheckpointError: on every rank, if any rank failed; nothing is left under `folder`'s name.
    """
    folder, groups = Path(folder), groups or ModelGroups()
    local = together(str(folder), lambda: local_parameters(model_chunks, shape), world)
    default = next(iter(local.values())).dtype
    storage = together(str(folder), lambda: _storage_dtype(dtype, source_config, default), world)
    on_first(str(folder), lambda: _claim(folder, overwrite), world)
    writer = None
    if replica_rank == 0 and groups.is_writer:
        writer = ShardWriter(partial_folder(folder), expected_tensors(shape), storage, max_shard_bytes)
    together(
        str(folder),
        lambda: _stream(local, shape, extension, groups, writer) if replica_rank == 0 else None,
        world,
    )
    on_first(
        str(folder),
        lambda: _finish(folder, shape, extension, source_config, tokenizer_path, storage),
        world,
    )
    return folder


def _storage_dtype(dtype: str | None, source: Mapping[str, Any] | None, default: torch.dtype) -> torch.dtype:
    name = dtype
    if name is None and source is not None:
        name = source.get("dtype", source.get("torch_dtype"))
    if name is None:
        return default
    name = str(name).removeprefix("torch.")
    if name not in _DTYPES:
        raise CheckpointError(
            "dtype", required="one of " + ", ".join(_DTYPES), given=name, mend="choose one of them"
        )
    return _DTYPES[name]


def _claim(folder: Path, overwrite: bool) -> None:
    if folder.exists() and not overwrite and not (folder / MARKER).is_file():
        raise CheckpointError(
            str(folder),
            required="a new folder, or one that an earlier export wrote",
            given="a folder with other content" if folder.is_dir() else "a file",
            mend="choose another export folder, or set overwrite",
        )
    start_folder(folder)


def _stream(
    local: dict[Key, Tensor],
    shape: ModelShape,
    extension: ContextExtension,
    groups: ModelGroups,
    writer: ShardWriter | None,
) -> None:
    order = None
    if extension.interleaved:
        order = halves_from_interleaved(extension.head_dim, extension.rotary_dim)
    for name, tensor in gathered_tensors(local, shape, groups, order):
        if writer is not None:
            writer.add(name, _present(tensor))
    if writer is not None:
        writer.finish()


def _present(tensor: Tensor | None) -> Tensor:
    assert tensor is not None, "whole tensors arrive at the writer"
    return tensor


def _finish(
    folder: Path,
    shape: ModelShape,
    extension: ContextExtension,
    source: Mapping[str, Any] | None,
    tokenizer_path: str | Path | None,
    storage: torch.dtype,
) -> None:
    partial = partial_folder(folder)
    config = build_config(shape, extension, source, str(storage).removeprefix("torch."))
    write_json(partial / "config.json", config)
    unchanged = source is not None and config["max_position_embeddings"] == source["max_position_embeddings"]
    if tokenizer_path is not None:
        length = None if unchanged else extension.target_window
        copy_tokenizer(Path(tokenizer_path), partial, max_length=length)
        generation = Path(tokenizer_path) / GENERATION_CONFIG
        if generation.is_file():
            old = None if source is None else source.get("max_position_embeddings")
            values = extended_generation_config(read_json(generation), old, extension.target_window)
            write_json(partial / GENERATION_CONFIG, values)
    write_json(partial / MARKER, {"extension": extension.to_dict(), "shape": shape.to_dict()})
    finish_folder(folder)
