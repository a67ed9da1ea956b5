"""Which modules a transformer layer is made of: Transformer Engine's where asked for, else local ones."""

from __future__ import annotations

from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig

from nemo_pi.model.attention import RotarySelfAttention
from nemo_pi.model.core_attention import SdpaCoreAttention
from nemo_pi.model.linear import ColumnLinear, RowLinear
from nemo_pi.model.norm import RMSNorm
from nemo_pi.model.swiglu import swiglu
from nemo_pi.model.te_documents import with_documents


def decoder_spec(
    config: TransformerConfig,
    stage: int | None,
    *,
    use_transformer_engine: bool,
    rotary_kernel: str,
    rotary_dim: int,
    rotary_tempered: bool = False,
) -> TransformerBlockSubmodules:
    """The layers of one model chunk: Megatron's own, their self-attention replaced by ours.

    Args:
        config: says how many layers the chunk gets.
        stage: number of the chunk under interleaved pipelining, else None.
        use_transformer_engine: from engine_layers.resolve_transformer_engine.
        rotary_kernel: model.rotary_kernel, resolved when the layers are built.
        rotary_dim: rotated channels of a head.
        rotary_tempered: whether cosines and sines carry an attention temperature.
    """
    if use_transformer_engine:
        spec = get_gpt_layer_with_transformer_engine_spec(qk_layernorm=config.qk_layernorm)
        # Imported here: the module needs Transformer Engine at import.
        from megatron.core.extensions.transformer_engine_spec_provider import TESpecProvider

        norm = TESpecProvider().layer_norm(rms_norm=True)
        attention = spec.submodules.self_attention.submodules
        attention.core_attention = with_documents(attention.core_attention)
    else:
        spec = get_gpt_layer_local_spec(normalization="RMSNorm", qk_layernorm=config.qk_layernorm)
        norm = RMSNorm
        spec.submodules.input_layernorm = norm
        spec.submodules.pre_mlp_layernorm = norm
        attention = spec.submodules.self_attention.submodules
        attention.core_attention = SdpaCoreAttention
        attention.linear_qkv, attention.linear_proj = ColumnLinear, RowLinear
        if config.qk_layernorm:
            attention.q_layernorm = attention.k_layernorm = norm
        mlp = spec.submodules.mlp.submodules
        mlp.linear_fc1, mlp.linear_fc2 = ColumnLinear, RowLinear
    spec.submodules.self_attention.module = RotarySelfAttention
    spec.submodules.mlp.submodules.activation_func = swiglu
    spec.submodules.self_attention.params.update(
        rotary_kernel=rotary_kernel, rotary_dim=rotary_dim, rotary_tempered=rotary_tempered
    )
    layers = get_num_layers_to_build(config, vp_stage=stage)
    return TransformerBlockSubmodules(layer_specs=[spec] * layers, layer_norm=norm)
