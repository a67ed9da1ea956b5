"""What a model is built with beside its shape and its positions. Nothing here imports Megatron."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from nemo_pi.families.lora import Lora
from nemo_pi.kernels.registry import AUTO

ALL_BUT_ATTENTION = "all_but_core_attn"
"""Name of all modules of a layer but core attention, in Recompute and in the YAML."""
HOST, DISK = "host", "disk"
OFFLOADS = (HOST, DISK)
"""Where activations may wait for their backward pass, apart from where they are."""


@dataclass(frozen=True)
class Recompute:
    """Which activations are thrown away in the forward pass and computed again in the backward pass."""

    granularity: str | None = None
    """None (keep all), `selective` (some modules of each layer) or `full` (whole layers)."""
    method: str | None = None
    """`uniform` or `block` where granularity is full, else None."""
    num_layers: int | None = None
    """Layers of a chunk (uniform) or recomputed layers per stage (block) where granularity is full."""
    modules: tuple[str, ...] = ()
    """`core_attn`, `mlp` or both, or ALL_BUT_ATTENTION alone, where granularity is selective, else none; none
    stands for core_attn."""
    offload: str | None = None
    """Where what recomputed layers keep waits: `host` (pinned memory), `disk` (a file); None: where it is."""
    folder: str | None = None
    """Of that file; None: where temporary files go."""

    @property
    def keeps_attention(self) -> bool:
        """Whether layers are computed again without their attention."""
        return self.modules == (ALL_BUT_ATTENTION,)

    @property
    def is_ours(self) -> bool:
        """Whether layers compute themselves again (model/recomputed_layer.py), and not Megatron."""
        return self.offload is not None or self.keeps_attention


NO_RECOMPUTATION = Recompute()
"""Everything is kept."""


@dataclass(frozen=True)
class BackendRequests:
    """What a run asks for: `auto` or a name for each job."""

    rotary: str = AUTO
    """model.rotary_kernel; `fused` where apply_rope_fusion asks for any fused one."""
    attention: str = AUTO
    """model.attention_backend."""
    norm: str = AUTO
    """model.norm_backend."""
    activation: str = AUTO
    """model.activation_backend."""
    softmax: str = AUTO
    """model.softmax_backend: of the loss."""
    matmul: str = AUTO
    """model.matmul_backend: of linear layers and the loss."""
    sliding_attention: str = AUTO
    """Of layers with a sliding window, where others have none; auto: as `attention` where that is named."""
    settled: Mapping[str, str] = field(default_factory=dict)
    """{job: how its name was chosen}, for names that nobody wrote down (see kernels.registry.Choice.how)."""


@dataclass(frozen=True)
class BuildOptions:
    """Choices of a model that are neither its shape nor its positions."""

    params_dtype: torch.dtype = torch.float32
    """Dtype of the weights the layers compute with."""
    initialize: bool = True
    """Whether weights begin as random numbers; False leaves memory alone until a checkpoint fills it."""
    init_method_std: float = 0.02
    """Standard deviation of a fresh model's weights."""
    backends: BackendRequests = BackendRequests()
    """What shall do each job of a layer."""
    transformer_engine: bool = False
    """Whether layers are Transformer Engine's."""
    loss_chunk_tokens: int | None = 512
    """Tokens whose logits exist at once in the training loss; None: all of them."""
    mlp_chunk_tokens: int | None = None
    """Tokens that the MLP's hidden layer exists for at once, forward and backward; None: all of them."""
    recompute: Recompute = NO_RECOMPUTATION
    """Activation recomputation."""
    attention_group: int | None = None
    """Tokens of a group of shifted attention; None: a quarter of each row."""
    lora: Lora | None = None
    """Adapters, which alone are trained; None trains all weights."""
    megatron: Mapping[str, Any] = field(default_factory=dict)
    """Options of Megatron's TransformerConfig under its own names; they win over what is chosen here."""
