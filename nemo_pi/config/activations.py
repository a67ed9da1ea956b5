"""What is kept of the forward pass and where: slices of the MLP, activations moved elsewhere."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from nemo_pi.config.schema import ModelConfig
from nemo_pi.config.shapes import check_choice
from nemo_pi.errors import ConfigError
from nemo_pi.families.shape import ModelShape
from nemo_pi.model.options import ALL_BUT_ATTENTION, DISK, OFFLOADS, Recompute

_SMALLEST_SLICE = 1024
_OFFLOAD = "model.activations_offload"


def resolve_mlp_chunk(model: ModelConfig, shape: ModelShape) -> int | None:
    """Tokens of a slice of the MLP; None where all pass through it at once.

    Raises:
        ConfigError: no number of tokens, or the MLP is to be recomputed as well.
    """
    key, given = "model.mlp_chunk_size", model.mlp_chunk_size
    if given is None:
        return None
    size = chunk_size(shape.hidden_size) if given == "auto" else given
    if not isinstance(size, int) or size < 1:
        raise ConfigError(
            key,
            required="auto, or at least 1 token",
            given=repr(given),
            fix=f"{key}=auto takes a size by width",
        )
    modules = model.activations_checkpoint_modules or []
    if "mlp" in modules:
        rest = [name for name in modules if name != "mlp"]
        raise ConfigError(
            "model.activations_checkpoint_modules",
            required=f"no mlp beside {key}: in slices it keeps its input alone and is recomputed anyway",
            given=modules,
            fix=f"model.activations_checkpoint_modules=[{', '.join(rest)}]"
            if rest
            else "model.activations_checkpoint_granularity=null model.activations_checkpoint_modules=null",
        )
    return size


def chunk_size(hidden_size: int) -> int:
    """Tokens of a slice: its hidden layer is then about as large as one of the MLP's matrices.

    Each slice also reads and writes the gradients of the weights once, which so many tokens make a small part
    of its work.
    """
    return max(hidden_size, _SMALLEST_SLICE)


def with_offload(model: ModelConfig, recompute: Recompute) -> Recompute:
    """Recomputation with the place where what it keeps waits.

    Args:
        model: as given.
        recompute: as resolved from the other keys.

    Raises:
        ConfigError: nothing is recomputed that could wait elsewhere, or a folder without a file.
    """
    kind, folder = model.activations_offload, model.activations_offload_folder
    if kind is not None:
        check_choice(_OFFLOAD, kind, OFFLOADS)
    if folder is not None and kind != DISK:
        raise ConfigError(
            f"{_OFFLOAD}_folder",
            required=f"null unless {_OFFLOAD} is {DISK}",
            given=folder,
            fix=f"{_OFFLOAD}_folder=null",
        )
    if kind is None:
        return recompute
    _check_recomputed(recompute, kind)
    if kind == DISK:
        folder = str(Path(folder or tempfile.gettempdir()).expanduser().absolute())
    return replace(recompute, offload=kind, folder=folder)


def _check_recomputed(recompute: Recompute, kind: str) -> None:
    """What waits elsewhere is the input of single recomputed layers."""
    if recompute.granularity != "full" and not recompute.keeps_attention:
        raise ConfigError(
            _OFFLOAD,
            required="null unless whole layers are recomputed: only few and large tensors are worth the way",
            given=f"{kind} with model.activations_checkpoint_granularity={recompute.granularity or 'null'}",
            fix="model.activations_checkpoint_granularity=full (with"
            " model.activations_checkpoint_modules=null), or "
            f"model.activations_checkpoint_modules=[{ALL_BUT_ATTENTION}] with granularity selective",
        )
    if recompute.method == "uniform" and recompute.num_layers != 1:
        key = "model.activations_checkpoint_num_layers"
        raise ConfigError(
            key,
            required=f"1 beside {_OFFLOAD}: each layer's input waits by itself",
            given=recompute.num_layers,
            fix=f"{key}=1, which takes less of the device than {recompute.num_layers} do",
        )
