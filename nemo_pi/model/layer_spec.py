"""Which modules a transformer layer is made of: Transformer Engine's where asked for, else local ones."""

from __future__ import annotations

from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig

from nemo_pi.model.attention import RotarySelfAttention
from nemo_pi.model.backends import Backends
from nemo_pi.model.core_attention import SdpaCoreAttention
from nemo_pi.model.norm import RMSNorm
from nemo_pi.model.parallel_linear import ColumnLinear, RowLinear
from nemo_pi.model.rotary import RotaryPlan
from nemo_pi.model.te_documents import with_documents


def decoder_spec(
    config: TransformerConfig,
    stage: int | None,
    backends: Backends,
    rotary_plan: RotaryPlan,
    *,
    use_transformer_engine: bool,
) -> TransformerBlockSubmodules:
    """The layers of one model chunk: Megatron's own, their self-attention replaced by ours.

    Args:
        config: says how many layers the chunk gets.
        stage: number of the chunk under interleaved pipelining, else None.
        backends: what does each job of a layer.
        rotary_plan: which tables each layer is rotated by.
        use_transformer_engine: from engine_layers.resolve_transformer_engine.
    """
    norm = _norm(backends)
    if use_transformer_engine:
        spec = get_gpt_layer_with_transformer_engine_spec(qk_layernorm=config.qk_layernorm)
        attention = spec.submodules.self_attention.submodules
    else:
        spec = get_gpt_layer_local_spec(normalization="RMSNorm", qk_layernorm=config.qk_layernorm)
        # Megatron's local norm refuses sequence parallelism; ours marks its weight for it.
        spec.submodules.input_layernorm = norm
        spec.submodules.pre_mlp_layernorm = norm
        attention = spec.submodules.self_attention.submodules
        products = {"products": backends.load("matmul")}
        column, row = ModuleSpec(ColumnLinear, params=products), ModuleSpec(RowLinear, params=products)
        attention.linear_qkv, attention.linear_proj = column, row
        if config.qk_layernorm:
            attention.q_layernorm = attention.k_layernorm = norm
        mlp = spec.submodules.mlp.submodules
        mlp.linear_fc1, mlp.linear_fc2 = column, row
    attention.core_attention = _core_attention(backends)
    spec.submodules.self_attention.module = RotarySelfAttention
    spec.submodules.self_attention.params.update(
        rotary_kernel=backends.rotary.backend, rotary_plan=rotary_plan
    )
    # Megatron builds this one only under use_te_activation_func, which model/build.py sets.
    spec.submodules.mlp.submodules.activation_func = backends.load("activation")
    layers = get_num_layers_to_build(config, vp_stage=stage)
    return TransformerBlockSubmodules(layer_specs=[spec] * layers, layer_norm=norm)


def _norm(backends: Backends) -> ModuleSpec | type:
    """A class of Megatron's kind as it is; a function within our module."""
    loaded = backends.load("norm")
    return loaded if isinstance(loaded, type) else ModuleSpec(RMSNorm, params={"backend": loaded})


def _core_attention(backends: Backends) -> ModuleSpec | type:
    """A class of Megatron's kind, taught documents; anything else within our core attention."""
    loaded = backends.load("attention")
    if isinstance(loaded, type):
        return with_documents(loaded)
    params = {"backend": loaded, "sliding_backend": backends.load_sliding_attention()}
    return ModuleSpec(SdpaCoreAttention, params=params)
