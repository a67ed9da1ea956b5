"""Whether a checkpoint comes back as it was read: the same bits, sizes and positions."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from nemo_pi.checkpoint.files import read_json
from nemo_pi.checkpoint.hf.config import extension_from_config, shape_from_config
from nemo_pi.checkpoint.hf.config_write import build_config
from nemo_pi.checkpoint.hf.folder import HuggingFaceWeights
from nemo_pi.checkpoint.hf.source import HuggingFaceSource
from nemo_pi.checkpoint.summary import CheckpointSummary, read_source_config
from nemo_pi.engine.weights import export_weights
from nemo_pi.families.registry import family_of
from nemo_pi.parallel import launcher
from nemo_pi.verification.opening import OpenedModel

NOT_DONE = "not done:"
"""How the second of what is returned begins where there is nothing to compare."""


def unlike_after_export(model: OpenedModel, folder: Path) -> tuple[tuple[str, ...], str]:
    """Names of what does not come back from an export, and how that was tried; all ranks call it.

    A model that is held whole is exported to `folder`, which is removed again; of one that is read layer by
    layer, each parameter has gone into Megatron's form and back when it was read.

    Args:
        model: after a forward pass.
        folder: to write; must not exist.
    """
    checkpoint, dtype = model.checkpoint, model.engine.settings.build.params_dtype
    if checkpoint.kind != "huggingface":
        return (), f"{NOT_DONE} a distributed checkpoint has no folder to compare with"
    stored = getattr(torch, checkpoint.dtype)
    if dtype != stored and (dtype != torch.float32 or stored == torch.float64):
        return (), f"{NOT_DONE} weights are stored in {checkpoint.dtype}, which {dtype} does not hold"
    if not model.keep:
        return (*model.unlike, *_entries(checkpoint)), "parameter by parameter, there and back"
    export_weights(
        model.engine,
        folder,
        source_config=read_source_config(checkpoint.path),
        tokenizer_path=None,
        dtype=None,
        # Its own class, also where an export would be written as one that transformers has.
        architecture=family_of(checkpoint.shape).architecture,
        overwrite=False,
    )
    found: tuple[str, ...] = ()
    if launcher.is_global_zero():
        tensors, entries = tuple(_tensors(checkpoint.path, folder)), tuple(_written(checkpoint, folder))
        found = tensors + entries
        shutil.rmtree(folder)
    return found, "exported, read again"


def _tensors(source: Path, target: Path) -> Iterator[str]:
    """Tensors whose bits differ, one read at a time."""
    one, other = HuggingFaceWeights(source), HuggingFaceWeights(target)
    for name in other.sizes.keys() | one.sizes.keys():
        if name not in other.sizes or name not in one.sizes:
            # A tied output layer may be stored twice in the source; it is written once.
            if name not in other.sizes:
                continue
            yield name
        elif one.dtypes[name] != other.dtypes[name] or not _same_bits(one.read(name), other.read(name)):
            yield name


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def _written(checkpoint: CheckpointSummary, folder: Path) -> list[str]:
    return _differing(checkpoint, read_json(folder / "config.json"))


def _entries(checkpoint: CheckpointSummary) -> list[str]:
    source = HuggingFaceSource.read(checkpoint.path)
    return _differing(checkpoint, build_config(checkpoint.shape, checkpoint.extension, source, None))


def _differing(checkpoint: CheckpointSummary, written: dict[str, object]) -> list[str]:
    """What a written config.json says otherwise than the checkpoint."""
    shape = shape_from_config(written)
    found = [] if shape == checkpoint.shape else ["config.json: sizes"]
    same = extension_from_config(written, shape) == checkpoint.extension
    return found if same else [*found, "config.json: positions"]
