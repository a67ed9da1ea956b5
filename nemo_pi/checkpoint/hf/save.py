"""A Megatron model on any TP/PP layout to a Hugging Face folder, written whole or not at all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nemo_pi.checkpoint.collective import Group, gather_objects, on_first, together
from nemo_pi.checkpoint.files import real_folder
from nemo_pi.checkpoint.hf.folder import DTYPES
from nemo_pi.checkpoint.hf.gather import (
    ModelGroups,
    gathered_tensors,
    local_parameters,
    merged_weights,
    only_in,
    source_names,
)
from nemo_pi.checkpoint.hf.shards import ShardWriter
from nemo_pi.checkpoint.hf.source import HuggingFaceSource
from nemo_pi.checkpoint.hf.target import check_target, write_side_files
from nemo_pi.checkpoint.hf.tokenizer import tokenizer_files
from nemo_pi.checkpoint.space import check_space
from nemo_pi.checkpoint.whole import written_whole
from nemo_pi.errors import CheckpointError
from nemo_pi.families.export import AUTO, export_form
from nemo_pi.families.fusion import stored_order
from nemo_pi.families.registry import family_of
from nemo_pi.families.shape import ModelShape
from nemo_pi.rope.spec import ContextExtension

DEFAULT_SHARD_BYTES = 5 * 1024**3


def export_huggingface(
    model_chunks: Sequence[nn.Module],
    shape: ModelShape,
    extension: ContextExtension,
    folder: str | Path,
    *,
    source_config: Mapping[str, Any] | None = None,
    tokenizer_path: str | Path | None = None,
    dtype: str | None = None,
    architecture: str = AUTO,
    groups: ModelGroups | None = None,
    replica_rank: int = 0,
    world: Group = None,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    overwrite: bool = False,
) -> Path:
    """Writes config.json, safetensors and tokenizer, adapters merged; collective over every rank.

    Tensors stream to the writing rank one by one; it never holds more than one shard of them. The folder
    is written under a hidden name and renamed when complete.

    Args:
        model_chunks: this rank's GPTModel chunks.
        shape, extension: of the whole model.
        folder: to write; must not exist, unless an earlier export wrote it or `overwrite` is set.
        source_config: what the model came from, as nemo_pi.checkpoint.summary.read_source_config returns
            it; its other fields and storage dtypes are kept.
        tokenizer_path: folder with tokenizer files, or one of them.
        dtype: to store all weights in: float32, bfloat16, float16 or float64; None keeps the source's,
            tensor by tensor, and without a source the model's.
        architecture: the class of transformers to write the model as, as nemo_pi.families.export takes it.
        groups: this replica's process groups; None where one rank holds the whole model.
        replica_rank: which replica this rank is part of (its rank over data and context parallel ranks
            together); replica 0 writes.
        world: process group of all ranks; None is the world.
        max_shard_bytes: size of one safetensors file at most.
        overwrite: whether a folder that no export wrote is replaced.

    Returns:
        `folder`.

    Raises:
        CheckpointError: on every rank, if any rank failed; nothing of the export is left.
    """
    folder, groups = real_folder(folder), groups or ModelGroups()
    form = together(str(folder), lambda: export_form(shape, extension, architecture).shape, world)
    source = None if source_config is None else HuggingFaceSource.from_dict(source_config)

    local = together(str(folder), lambda: local_parameters(model_chunks, shape), world)
    _check_one_writer(replica_rank == 0 and groups.is_writer, world)
    if dtype is None and source is None:
        dtype = str(next(iter(local.values())).dtype).removeprefix("torch.")
    dtype_of = together(str(folder), lambda: _storage_dtypes(dtype, source, shape, form), world)
    tensors = family_of(form).tensors(form)
    num_bytes = sum(math.prod(sizes) * dtype_of(name).itemsize for name, sizes in tensors.items())

    def check() -> None:
        check_target(folder, overwrite=overwrite)
        check_space(folder.parent, num_bytes, "this export")
        if tokenizer_path is not None:
            # For its check alone, before weights are written for minutes.
            tokenizer_files(tokenizer_path)

    with written_whole(folder, "export", check=check, group=world) as partial:

        def stream() -> None:
            writer = ShardWriter(partial, tensors, dtype_of, max_shard_bytes)
            order = stored_order(extension, family_of(form).interleaved)
            merged = merged_weights(model_chunks, shape)
            gathered = gathered_tensors(local, form, groups, order, zeros=only_in(form, shape), merged=merged)
            _write(gathered, writer if groups.is_writer else None)

        # Other replicas hold the same weights; they only learn how it went.
        together(str(folder), stream if replica_rank == 0 else lambda: None, world)
        on_first(
            str(folder),
            lambda: write_side_files(partial, form, extension, source, tokenizer_path, dtype),
            world,
        )
    return folder


def _check_one_writer(writes: bool, world: Group) -> None:
    writers = sum(gather_objects(writes, world))
    if writers != 1:
        raise CheckpointError(
            "replica_rank",
            required="one replica 0, counted over data and context parallel ranks together",
            given=f"{writers} of them",
            fix="pass this rank's place in the data-parallel group with context parallel ranks in it",
        )


def _storage_dtypes(
    dtype: str | None, source: HuggingFaceSource | None, shape: ModelShape, form: ModelShape
) -> Callable[[str], torch.dtype]:
    """The storage dtype of each tensor by the name that it is written under."""
    if dtype is None:
        assert source is not None, "the caller falls back on the model's dtype"
        stored = source_names(form, shape) if form.family != shape.family else {}
        return lambda name: getattr(torch, source.dtype_of(stored.get(name, name)))
    name = dtype.removeprefix("torch.")
    if name not in DTYPES.values():
        raise CheckpointError(
            "dtype", required="one of " + ", ".join(DTYPES.values()), given=dtype, fix="choose one of them"
        )
    return lambda _: getattr(torch, name)


def _write(gathered: Iterator[tuple[str, Tensor | None]], writer: ShardWriter | None) -> None:
    for name, tensor in gathered:
        if writer is not None:
            assert tensor is not None, "whole tensors arrive at the writer"
            writer.add(name, tensor)
    if writer is not None:
        writer.finish()
