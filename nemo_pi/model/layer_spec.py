"""Which modules a transformer layer is made of: Transformer Engine's where asked for, else local ones."""

from __future__ import annotations

from dataclasses import replace
from types import FunctionType
from typing import Any

from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from nemo_pi.families.kind import LAYER_NORM, LayerKind
from nemo_pi.kernels.shifted_attention import ShiftedAttention
from nemo_pi.model.activation_store import IN_PLACE, Chain, Store
from nemo_pi.model.attention import RotarySelfAttention
from nemo_pi.model.backends import Backends
from nemo_pi.model.core_attention import SdpaCoreAttention
from nemo_pi.model.norm import LayerNorm, RMSNorm
from nemo_pi.model.options import NO_RECOMPUTATION, Recompute
from nemo_pi.model.parallel_linear import ColumnLinear, RowLinear, adding_bias
from nemo_pi.model.parallel_residual import ParallelResidualLayer
from nemo_pi.model.recomputed_layer import Policy, recomputed
from nemo_pi.model.residual import ResidualAdd
from nemo_pi.model.rotary import RotaryPlan
from nemo_pi.model.te_documents import with_documents
from nemo_pi.model.tiled_mlp import tiled
from nemo_pi.model.whole_norm import WholeWidthRMSNorm
from nemo_pi.parallel import groups


def decoder_spec(
    config: TransformerConfig,
    stage: int | None,
    backends: Backends,
    rotary_plan: RotaryPlan,
    kind: LayerKind,
    *,
    use_transformer_engine: bool,
    mlp_chunk_tokens: int | None = None,
    attention_group: int | None = None,
    recompute: Recompute = NO_RECOMPUTATION,
    store: Store = IN_PLACE,
) -> TransformerBlockSubmodules:
    """The layers of one model chunk: Megatron's own, with our self-attention and what the family asks for.

    Args:
        config: says how many layers the chunk gets.
        stage: number of the chunk under interleaved pipelining, else None.
        backends: what does each job of a layer.
        rotary_plan: which tables each layer is rotated by.
        kind: what the family says of its layers.
        use_transformer_engine: from engine_layers.resolve_transformer_engine.
        attention_group: tokens of a group, for attention in groups; None: its own choice.
        mlp_chunk_tokens, recompute: as in BuildOptions.
        store: where recomputed layers put away what they keep.
    """
    norm = _norm(backends, kind)
    if use_transformer_engine:
        spec = _engine_layer(config, norm, kind)
    else:
        spec = _local_layer(config, norm, backends)
    attention, mlp = spec.submodules.self_attention, spec.submodules.mlp
    attention.submodules.core_attention = _core_attention(backends, attention_group)
    attention.module = RotarySelfAttention
    attention.params.update(
        rotary_kernel=backends.rotary.backend, rotary_plan=rotary_plan, proj_bias=kind.proj_bias
    )
    # Megatron builds this one only under use_te_activation_func, which model/build.py sets.
    mlp.submodules.activation_func = _activation(backends, kind)
    if kind.mlp_bias and config.recompute_granularity == "selective" and "mlp" in config.recompute_modules:
        mlp.submodules.linear_fc2 = _adding_bias(mlp.submodules.linear_fc2)
    if kind.parallel:
        spec.module, spec.params = ParallelResidualLayer, {"shared_norm": kind.shared_norm}
    if kind.shared_norm:
        spec.submodules.pre_mlp_layernorm = IdentityOp
    if not kind.norms_before:
        spec.submodules.input_layernorm = spec.submodules.pre_mlp_layernorm = IdentityOp
    if kind.norms_after or kind.residual_scale != 1.0:
        params = {"config": config, "norm": norm if kind.norms_after else None, "scale": kind.residual_scale}
        spec.submodules.self_attn_bda = spec.submodules.mlp_bda = ModuleSpec(ResidualAdd, params=params)
    if kind.qk_norm_whole:
        query, key = _whole_width_norms(config, backends)
        attention.submodules.q_layernorm, attention.submodules.k_layernorm = query, key
    if mlp_chunk_tokens is not None:
        spec.submodules.mlp = tiled(mlp, mlp_chunk_tokens)
    layers = get_num_layers_to_build(config, vp_stage=stage)
    if recompute.is_ours:
        policy = Policy(
            Chain(store),
            layers,
            recomputed=recompute.num_layers or layers if recompute.method == "block" else layers,
            keeps_attention=recompute.keeps_attention,
            output_is_normed=kind.norms_after,
            first_is_held=not groups.is_first_stage(stage),
            last_is_next=groups.is_last_stage(stage),
        )
        spec.module = recomputed(spec.module, policy)
    return TransformerBlockSubmodules(layer_specs=[spec] * layers, layer_norm=norm)


def _local_layer(config: TransformerConfig, norm: ModuleSpec | type, backends: Backends) -> ModuleSpec:
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
    return spec


def _engine_layer(config: TransformerConfig, norm: ModuleSpec | type, kind: LayerKind) -> ModuleSpec:
    spec = get_gpt_layer_with_transformer_engine_spec(qk_layernorm=config.qk_layernorm)
    if kind.shared_norm or not kind.norms_before:
        # Transformer Engine fuses a norm into each of the two linear layers behind it; here both read one,
        # or none.
        from megatron.core.extensions.transformer_engine import TEColumnParallelLinear

        spec.submodules.input_layernorm = norm
        spec.submodules.self_attention.submodules.linear_qkv = TEColumnParallelLinear
        spec.submodules.mlp.submodules.linear_fc1 = TEColumnParallelLinear
    if kind.shared_norm:
        # Checkpoints have the norm where the fused layer would hold it.
        spec.submodules.sharded_state_dict_keys_map["input_layernorm."] = (
            "self_attention.linear_qkv.layer_norm_"
        )
    return spec


def _adding_bias(linear: ModuleSpec | type) -> ModuleSpec:
    """An output projection that adds its bias itself.

    Megatron's returns it to be added with the residual. What a recomputed MLP returns becomes a result of its
    recomputation to autograd, even a parameter: the bias's gradient would ask for itself, without end.
    """
    if isinstance(linear, type):
        return ModuleSpec(adding_bias(linear))
    return ModuleSpec(adding_bias(linear.module), params=linear.params)


def _whole_width_norms(config: TransformerConfig, backends: Backends) -> tuple[ModuleSpec, ModuleSpec]:
    """Of query and key."""
    loaded = backends.load("norm")
    # A class of Megatron's kind knows no width but its input's.
    backend = {} if isinstance(loaded, type) else {"backend": loaded}
    query, key = (
        ModuleSpec(WholeWidthRMSNorm, params={"heads": heads, "group": groups.tensor_group(), **backend})
        for heads in (config.num_attention_heads, config.num_query_groups)
    )
    return query, key


def _norm(backends: Backends, kind: LayerKind) -> ModuleSpec | type:
    """A class of Megatron's kind as it is; a function within our module."""
    loaded = backends.load("norm")
    if isinstance(loaded, type):
        return loaded
    module = LayerNorm if kind.norm == LAYER_NORM else RMSNorm
    return ModuleSpec(module, params={"backend": loaded})


def _activation(backends: Backends, kind: LayerKind) -> Any:
    """A class of Megatron's kind, None or a SwiGLU as it is; else what this kind asks of a function."""
    loaded = backends.load("activation")
    if not isinstance(loaded, FunctionType) or (kind.activation, kind.gated) == ("silu", True):
        return loaded

    # Megatron takes functions for what they are, and would build a partial as a class.
    def activate(x: Tensor) -> Tensor:
        activated: Tensor = loaded(x, kind.activation, kind.gated)
        return activated

    return activate


def _core_attention(backends: Backends, group: int | None) -> ModuleSpec | type:
    """A class of Megatron's kind, taught documents; anything else within our core attention."""
    loaded = backends.load("attention")
    if isinstance(loaded, type):
        return with_documents(loaded)
    if isinstance(loaded, ShiftedAttention):
        loaded = replace(loaded, group=group)
    params = {"backend": loaded, "sliding_backend": backends.load_sliding_attention()}
    return ModuleSpec(SdpaCoreAttention, params=params)
