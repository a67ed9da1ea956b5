"""Weights of other formats as a Hugging Face folder of safetensors, tensor by tensor."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nemo_pi.checkpoint.files import own_file, read_json, real_folder
from nemo_pi.checkpoint.hf.config import extension_from_config, shape_from_config
from nemo_pi.checkpoint.hf.folder import StoredWeights
from nemo_pi.checkpoint.hf.gguf import GgufWeights
from nemo_pi.checkpoint.hf.load import check_weights
from nemo_pi.checkpoint.hf.pickled import PickledWeights
from nemo_pi.checkpoint.hf.save import DEFAULT_SHARD_BYTES
from nemo_pi.checkpoint.hf.shards import ShardWriter
from nemo_pi.checkpoint.hf.source import HuggingFaceSource
from nemo_pi.checkpoint.hf.target import write_side_files
from nemo_pi.checkpoint.hf.tokenizer import GENERATION_CONFIG, has_tokenizer
from nemo_pi.checkpoint.space import check_space
from nemo_pi.checkpoint.whole import written_whole
from nemo_pi.families.registry import family_of

SaveTokenizer = Callable[[Path], Any]


def rewrite_pickled(source: Path, target: Path, *, dtype: str | None = None) -> None:
    """A folder with `pytorch_model.bin` or shards of it; all its other files that are no code come along.

    Args:
        source: with config.json.
        target: folder to write; it appears only once it is complete.
        dtype: to store all weights in; None keeps each tensor's.

    Raises:
        CheckpointError: files that are missing, damaged or unsafe, or tensors that are not this model's.
    """
    weights = PickledWeights(source)
    config = read_json(own_file(source / "config.json", source))
    generation = source / GENERATION_CONFIG
    defaults = read_json(own_file(generation, source)) if generation.is_file() else None
    tokenizer = source if has_tokenizer(source) else None
    _rewrite(weights, config, defaults, target, dtype, tokenizer)


def rewrite_gguf(source: Path, target: Path, *, dtype: str | None = None) -> None:
    """A GGUF file of a Llama, dequantised, with the configuration and the tokenizer that it holds.

    Args:
        source: the file.
        target, dtype: as rewrite_pickled's; tensors of quantised types become fp32, which holds every value
            exactly.

    Raises:
        BackendUnavailableError: the package gguf is missing.
        CheckpointError: another architecture, a damaged file, or scaling that config.json has no words for.
    """
    weights = GgufWeights(source)
    _rewrite(weights, weights.config(), None, target, dtype, None, weights.save_tokenizer)


def _rewrite(
    weights: StoredWeights,
    config: dict[str, Any],
    generation_config: dict[str, Any] | None,
    target: Path,
    dtype: str | None,
    tokenizer: Path | None,
    save_tokenizer: SaveTokenizer | None = None,
) -> None:
    shape = shape_from_config(config)
    extension = extension_from_config(config, shape)
    check_weights(weights, shape)
    wanted = family_of(shape).tensors(shape)  # a tied output layer that is stored twice is not
    main = Counter(weights.dtypes.values()).most_common(1)[0][0]
    others = {name: own for name, own in weights.dtypes.items() if own != main and name in wanted}
    source = HuggingFaceSource(config, generation_config, main, others)
    target, dtype_of = real_folder(target), _dtype_of(dtype, source)
    names = {name: sizes for name, sizes in weights.sizes.items() if name in wanted}
    num_bytes = sum(math.prod(sizes) * dtype_of(name).itemsize for name, sizes in names.items())

    with written_whole(
        target, "conversion", check=lambda: check_space(target.parent, num_bytes, "this conversion")
    ) as partial:
        writer = ShardWriter(partial, names, dtype_of, DEFAULT_SHARD_BYTES)
        for name in names:
            writer.add(name, _whole(weights.read(name)))
        writer.finish()
        if save_tokenizer is not None:
            save_tokenizer(partial)
        write_side_files(partial, shape, extension, source, tokenizer, dtype)


def _dtype_of(dtype: str | None, source: HuggingFaceSource) -> Callable[[str], torch.dtype]:
    def of(name: str) -> torch.dtype:
        found: torch.dtype = getattr(torch, dtype or source.dtype_of(name))
        return found

    return of


def _whole(tensor: Tensor) -> Tensor:
    """Storage of its own: a view of a mapped file would be written with all that it lies in."""
    return tensor.contiguous().clone()
