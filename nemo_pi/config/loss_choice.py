"""How the training loss is computed: from a chunk of tokens' logits at a time, or from whole logits."""

from __future__ import annotations

from nemo_pi.config.schema import ModelConfig
from nemo_pi.config.shapes import check_choice
from nemo_pi.errors import ConfigError
from nemo_pi.families.shape import ModelShape

_SMALLEST_CHUNK, _LARGEST_CHUNK = 512, 2048


def resolve_loss(model: ModelConfig, shape: ModelShape) -> int | None:
    """Tokens whose logits exist at once, as asked for by model.loss or by NeMo's cross_entropy_loss_fusion.

    None computes whole logits; where neither key says so, the loss is chunked.

    Raises:
        ConfigError: an unknown name, a contradiction, or a chunk size that is impossible or without use.
    """
    check_choice("model.loss", model.loss, ("auto", "chunked", "full"))
    path, fused, size = model.loss, model.cross_entropy_loss_fusion, model.loss_chunk_size
    if fused is not None:
        asked = "chunked" if fused else "full"
        if path not in ("auto", asked):
            raise ConfigError(
                "model.cross_entropy_loss_fusion",
                required=f"null, or in agreement with loss={path}",
                given=fused,
                fix="model.cross_entropy_loss_fusion=null lets model.loss decide",
            )
        path = asked
    if size is not None and (size < 1 or path == "full"):
        raise ConfigError(
            "model.loss_chunk_size",
            required="null for whole logits" if path == "full" else "at least 1 token",
            given=size,
            fix="model.loss_chunk_size=null takes a size by the model's width",
        )
    if path == "full":
        return None
    return chunk_size(shape.hidden_size) if size is None else size


def chunk_size(hidden_size: int) -> int:
    """Tokens of a chunk: enough for efficient matrix products, few enough to be small beside the weights.

    The products' efficiency grows with the smallest of their sizes; each chunk also reads and writes the
    gradient of the output weights once, which half the hidden size makes a small part of its work.
    """
    return min(max(hidden_size // 2, _SMALLEST_CHUNK), _LARGEST_CHUNK)
