"""From sizes and a parallel layout to this rank's Megatron model chunks."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.transformer.transformer_config import TransformerConfig

from nemo_pi.errors import BackendUnavailableError
from nemo_pi.families.registry import family_of
from nemo_pi.families.shape import ModelShape
from nemo_pi.model.activation_places import store_of
from nemo_pi.model.backends import Backends, check_requests, choose_backends, workload
from nemo_pi.model.fusions import fusions
from nemo_pi.model.gpt import RotaryGPTModel
from nemo_pi.model.layer_spec import decoder_spec
from nemo_pi.model.lora import attach, freeze
from nemo_pi.model.options import ALL_BUT_ATTENTION, HOST, NO_RECOMPUTATION, BuildOptions
from nemo_pi.model.parallel_linear import mark_split
from nemo_pi.model.rotary import RotaryPlan
from nemo_pi.parallel import groups
from nemo_pi.parallel.layout import ParallelLayout
from nemo_pi.rope.spec import ContextExtension


def transformer_config(
    shape: ModelShape,
    layout: ParallelLayout,
    options: BuildOptions,
    *,
    rotary_interleaved: bool = False,
    fused_activation: bool = False,
) -> TransformerConfig:
    """Megatron's configuration: what the family's layers need, the layout, and how training computes.

    calculate_per_token_loss makes gradients exact whatever the split of the batch.

    Args:
        shape, layout, options: of the model.
        rotary_interleaved: whether rotated pairs are neighbouring channels.
        fused_activation: whether the activation is Megatron's own fused one.
    """
    on_gpu = torch.cuda.is_available()
    recompute = NO_RECOMPUTATION if options.recompute.is_ours else options.recompute
    chosen: dict[str, Any] = dict(
        **family_of(shape).megatron_options(shape),
        # Takes the layer spec's activation, whoever's that is; Megatron's fused one is no part of the spec.
        use_te_activation_func=not fused_activation,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        rotary_interleaved=rotary_interleaved,
        init_method_std=options.init_method_std,
        perform_initialization=options.initialize,
        params_dtype=options.params_dtype,
        # Of what stages send each other; Megatron refuses several stages without it.
        pipeline_dtype=options.params_dtype,
        bf16=options.params_dtype is torch.bfloat16,
        fp16=options.params_dtype is torch.float16,
        tensor_model_parallel_size=layout.tp,
        pipeline_model_parallel_size=layout.pp,
        virtual_pipeline_model_parallel_size=layout.vpp,
        context_parallel_size=layout.cp,
        cp_comm_type=_exchange(shape, layout, options),
        sequence_parallel=layout.sequence_parallel,
        calculate_per_token_loss=True,
        # Otherwise weights would be made on the current CUDA device.
        use_cpu_initialization=not on_gpu,
        bias_activation_fusion=fused_activation,
        **fusions(options),
        batch_p2p_comm=on_gpu,
        recompute_granularity=recompute.granularity,
        recompute_method=recompute.method,
        recompute_num_layers=recompute.num_layers,
        recompute_modules=list(recompute.modules) or None,
    )
    return TransformerConfig(**chosen | dict(options.megatron))


def _exchange(shape: ModelShape, layout: ParallelLayout, options: BuildOptions) -> str | None:
    """How context-parallel ranks exchange keys and values; None where there is one."""
    if layout.cp == 1 or layout.cp_comm_type is not None:
        return layout.cp_comm_type
    # Transformer Engine's ring knows no sliding window.
    return "p2p" if options.transformer_engine and shape.sliding_window is None else "all_gather"


def check_backends(
    shape: ModelShape, extension: ContextExtension, layout: ParallelLayout, options: BuildOptions
) -> None:
    """Raises what build_model_chunks would, for want of a backend, before anything is allocated.

    Raises:
        ConfigError: a backend is asked for by a name that is not known.
        BackendUnavailableError: a backend asked for by name, a fusion, the exchange between
            context-parallel ranks or a way of recomputing cannot be had.
    """
    check_requests(workload(shape, extension, layout, options), options.backends)
    fusions(options)
    _check_recomputation(options)
    if not options.transformer_engine and layout.cp_comm_type not in (None, "all_gather"):
        raise BackendUnavailableError(
            "model.cp_comm_type",
            required="all_gather or null: PyTorch's attention gathers keys and values",
            given=layout.cp_comm_type,
            fix="set it to null, or train with Transformer Engine (transformer_engine: true)",
        )


def _check_recomputation(options: BuildOptions) -> None:
    if options.recompute.offload == HOST and not torch.cuda.is_available():
        raise BackendUnavailableError(
            "model.activations_offload",
            required="a CUDA device for host: without one activations are in the host's memory already",
            given="host, and PyTorch sees no CUDA device here",
            fix="model.activations_offload=disk, or null",
        )
    if options.recompute.keeps_attention and options.transformer_engine:
        raise BackendUnavailableError(
            "model.activations_checkpoint_modules",
            required="layers of ours, whose attention lets its output and log-sum-exp be kept",
            given=f"{ALL_BUT_ATTENTION} with Transformer Engine's layers",
            fix="model.transformer_engine=false, or model.activations_checkpoint_granularity=full (with"
            " model.activations_checkpoint_modules=null)",
        )


def check_documents(shape: ModelShape, layout: ParallelLayout, options: BuildOptions) -> None:
    """Raises what samples of several documents would stop at in the first step.

    Raises:
        BackendUnavailableError: Transformer Engine's all-gather between context-parallel ranks takes whole
            rows only (its versions 2.4 to 2.14 refuse documents by an assertion).
    """
    if layout.cp > 1 and options.transformer_engine and _exchange(shape, layout, options) == "all_gather":
        raise BackendUnavailableError(
            "model.data.pack_documents or model.data.reset_attention_mask",
            required="false where Transformer Engine gathers keys and values over context-parallel ranks"
            " (cp_comm_type: all_gather, which a sliding window needs)",
            given=True,
            fix="transformer_engine: false, whose attention does both, or context_parallel_size: 1",
        )


def build_model_chunks(
    shape: ModelShape,
    extension: ContextExtension,
    layout: ParallelLayout,
    options: BuildOptions,
    backends: Backends | None = None,
) -> list[RotaryGPTModel]:
    """This rank's part of the model: one chunk, or several under interleaved pipelining.

    Megatron's process groups must be up (parallel.groups.initialize).

    Args:
        shape, extension, layout, options: of the model.
        backends: what does each job of a layer, the same on all ranks; None chooses as the options ask.

    Raises:
        BackendUnavailableError: as check_backends.
    """
    # From within a layer's constructor the error would not get out: Megatron re-raises every error as its own
    # type made of one string.
    check_backends(shape, extension, layout, options)
    if backends is None:
        backends = choose_backends(workload(shape, extension, layout, options), options.backends)
    kind = family_of(shape).layer_kind(shape)
    config = transformer_config(
        shape,
        layout,
        options,
        rotary_interleaved=extension.interleaved,
        fused_activation=backends.load("activation") is None,
    )
    plan = RotaryPlan.of(shape, extension)
    stages: list[int | None] = list(range(layout.vpp)) if layout.vpp else [None]
    store = store_of(options.recompute.offload, options.recompute.folder)
    chunks = [
        RotaryGPTModel(
            config=config,
            transformer_layer_spec=decoder_spec(
                config,
                stage,
                backends,
                plan,
                kind,
                use_transformer_engine=options.transformer_engine,
                mlp_chunk_tokens=options.mlp_chunk_tokens,
                attention_group=options.attention_group,
                recompute=options.recompute,
                store=store,
            ),
            vocab_size=shape.vocab_rows(layout.tp) * layout.tp,
            num_tokens=shape.vocab_size,
            max_sequence_length=extension.target_window,
            extension=extension,
            backends=backends,
            loss_chunk_tokens=options.loss_chunk_tokens,
            embedding_scale=kind.embedding_scale,
            output_bias=kind.output_bias,
            logits_divisor=kind.logits_divisor,
            pre_process=groups.is_first_stage(stage),
            post_process=groups.is_last_stage(stage),
            share_embeddings_and_output_weights=shape.tied_embeddings,
            vp_stage=stage,
        )
        for stage in stages
    ]
    if not options.initialize:
        for chunk in chunks:
            mark_split(chunk)
    if options.lora is not None:
        attach(chunks, options.lora, shape)
        freeze(chunks, options.lora)
    return chunks
