"""What is kept of the forward pass and where: slices of the MLP, activations moved elsewhere."""

from __future__ import annotations

from nemo_pi.config.schema import ModelConfig
from nemo_pi.errors import ConfigError
from nemo_pi.families.shape import ModelShape

_SMALLEST_SLICE = 1024


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
