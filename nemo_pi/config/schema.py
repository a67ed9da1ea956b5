"""What a run's YAML may say: one dataclass per section, a docstring under every key.

Keys and defaults follow NeMo's GPT configuration. `null` always means "derive it" or "leave it off", as
each key says. Types are enforced by `nemo_pi.config.merge`, values by `nemo_pi.config.load.resolve`.

conf/model/base.yaml is written from this file and from sections.py by tools/base_yaml.py (`make conf`): a
field's docstring becomes its comment there, a line `# --- title ---` a heading.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nemo_pi.config.megatron import passed
from nemo_pi.config.sections import (
    DataConfig,
    EvaluationConfig,
    ExportConfig,
    OptimConfig,
    PeftConfig,
    PoseConfig,
    SchedConfig,
    TokenizerConfig,
)

__all__ = [
    "DataConfig",
    "EvaluationConfig",
    "ExportConfig",
    "ModelConfig",
    "OptimConfig",
    "PoseConfig",
    "RunConfig",
    "SchedConfig",
    "TokenizerConfig",
]


@dataclass
class ModelConfig:
    """The model, how it is extended, laid out over ranks and trained (`model`)."""

    # --- context window: the two keys of an extension ---
    max_position_embeddings: int | None = None
    """Target window in tokens. NeMo 1.x meant the PRETRAINED length by this key; here it is the length to
    reach. null: original window × pos_scaling_factor."""
    pos_scaling_factor: float | None = None
    """Target ÷ original window, 1 or more; 1 changes nothing. null: derived from the two windows."""
    pos_scaling_type: str | None = None
    """How positions are scaled: linear (Position Interpolation), ntk, dynamic, yarn, llama3, longrope, abf (a
    base chosen freely), proportional, a method of an installed package, or none, which is direct fine-tuning
    at the new length. null: the checkpoint's own scaling where it has one,
    else linear."""
    pos_scaling_extra_args: dict[str, Any] | None = None
    """Arguments of that method, e.g. {beta_fast: 32, beta_slow: 1} for yarn; conf/rope/*.yaml lists them.
    null: its defaults."""
    pos_scaling_layers: str | None = None
    """Which layers are scaled, in a model whose layers with a sliding window have rotary embeddings of their
    own (Gemma 3, OLMo 3): full (those that attend to everything; the others never look further back than
    their window) or all. null: full, or as the checkpoint is scaled already; all in other models."""
    seq_len_interpolation_factor: float | None = None
    """NeMo 1.x's spelling of linear scaling's factor; not together with pos_scaling_factor. null: unused."""
    original_max_position_embeddings: int | None = None
    """Window of the pretrained model in tokens. null: what the checkpoint says; a given value must agree, or
    corrects one that the checkpoint overstates, with allow_rescaling."""
    encoder_seq_length: int | None = None
    """Training length in tokens, at most the target window. null: the target window; with data.pose, the
    original one."""
    allow_rescaling: bool = False
    """Accept a checkpoint that has been scaled before and replace its scaling: the factor then counts from
    its original window, never on top. Also lets original_max_position_embeddings say what that window was."""

    # --- the checkpoint to start from ---
    restore_from_path: str | None = None
    """Hugging Face folder or distributed checkpoint, as at the top level. null: random weights."""

    # --- shape: null takes what the checkpoint has ---
    num_layers: int | None = None
    """Transformer layers."""
    hidden_size: int | None = None
    """Width of the residual stream."""
    ffn_hidden_size: int | None = None
    """Width of the MLP's hidden layer; of one of its halves, where it is gated (SwiGLU)."""
    num_attention_heads: int | None = None
    """Query heads."""
    num_query_groups: int | None = None
    """Key/value heads. null without a checkpoint: num_attention_heads."""
    kv_channels: int | None = None
    """Channels of one head. null without a checkpoint: hidden_size ÷ num_attention_heads."""
    vocab_size: int | None = None
    """Rows of the embedding, never padded: the tensor-parallel size must divide it."""
    layernorm_epsilon: float | None = None
    """Epsilon of the norms. null without a checkpoint: 1e-5."""
    share_embeddings_and_output_weights: bool | None = None
    """Whether the output layer is the embedding. null without a checkpoint: false."""
    family: str | None = None
    """llama, mistral, …: Hugging Face's model_type, which an export is written as. null without a checkpoint:
    the first family with RMSNorm and SwiGLU that has the features named below."""
    add_qkv_bias: bool | None = None
    """Biases in the query, key and value projections (Qwen2). null without a checkpoint: the family's."""
    qk_layernorm: bool | None = None
    """Norms of query and key, head by head (Qwen3). null without a checkpoint: the family's."""
    sliding_window: int | None = None
    """Tokens each query may look back, itself included (Megatron's window_size: [sliding_window − 1, 0]).
    null without a checkpoint: all of them."""
    full_attention_layers: list[int] | None = None
    """Layers, from 0, that attend to everything although the others have a sliding window. null without a
    checkpoint: none."""
    unrotated_layers: list[int] | None = None
    """Layers, from 0, whose queries and keys are not rotated (SmolLM3's NoPE layers). null without a
    checkpoint: none."""
    embedding_multiplier: float | None = None
    """Times the embedding, before the first layer (Granite). null without a checkpoint: 1."""
    attention_multiplier: float | None = None
    """Times the products of queries and keys (Granite). null without a checkpoint: 1/√kv_channels."""
    residual_multiplier: float | None = None
    """Times what attention and MLP add to the residual stream (Granite). null without a checkpoint: 1."""
    logits_scaling: float | None = None
    """Divides the logits (Granite). null without a checkpoint: 1."""
    rotary_base: float | None = None
    """Base of the rotary frequencies. null without a checkpoint: 10000."""
    rotary_percentage: float | None = None
    """Part of each head that is rotated, in (0, 1]. null without a checkpoint: 1."""
    rotary_interleaved: bool | None = None
    """Rotate neighbouring channels (GPT-J) rather than halves (Llama). null without a checkpoint: false."""
    sliding_rotary: dict[str, Any] | None = None
    """Rotary embeddings of layers with a sliding window, where they have their own: {base: 10000} and, where
    they are scaled, method, factor and extra_args. null without a checkpoint: those of the other layers."""
    query_scaling: dict[str, Any] | None = None
    """Queries at position m are multiplied by 1 + beta·ln(1 + ⌊m ÷ window⌋), as in {beta: 0.1, window: 16384}
    (Ministral 3). null without a checkpoint: they are not."""
    position_embedding_type: str = "rope"
    """Only rope can be extended here."""
    normalization: str | None = None
    """rmsnorm, layernorm, or layernorm1p (weights around 0), as the family has it. null: the family's."""
    activation: str | None = None
    """Of the MLP: fast-swiglu, swiglu or silu (one function, gated where the family's MLP is), gelu,
    gelu_tanh or relu2. null: the checkpoint's, else the family's."""
    bias: bool | None = None
    """Biases in the MLP's linear layers. null: the checkpoint's, else the family's."""
    attention_output_bias: bool | None = None
    """Biases in attention's output projection. null: the checkpoint's, else the family's."""
    use_parallel_residual: bool | None = None
    """Whether attention and MLP read the same residual (GPT-NeoX, StableLM). null: the checkpoint's, else the
    family's."""
    init_method_std: float = passed(0.02, transformer="init_method_std")
    """Standard deviation of random initial weights; unused with a checkpoint."""
    hidden_dropout: float = 0.0
    """Dropout after attention and MLP; only 0."""
    attention_dropout: float = 0.0
    """Dropout of attention weights; only 0."""

    # --- batches, in samples ---
    micro_batch_size: int = 1
    """Samples in one forward pass of one data-parallel rank."""
    global_batch_size: int = 1
    """Samples in one optimizer step over all ranks: a multiple of micro_batch_size × data-parallel size."""

    # --- layout over ranks; what remains is data-parallel ---
    tensor_model_parallel_size: int = 1
    """Ranks that share each layer; 1 splits nothing."""
    pipeline_model_parallel_size: int = 1
    """Ranks that the layers are dealt out to; 1 splits nothing."""
    virtual_pipeline_model_parallel_size: int | None = None
    """Chunks of layers per pipeline rank (interleaved schedule). null or 1: not interleaved."""
    context_parallel_size: int = 1
    """Ranks that share each sequence; 1 splits nothing."""
    cp_comm_type: str | None = None
    """How those exchange keys and values: all_gather, or with Transformer Engine also p2p (a ring) and a2a.
    null: all_gather without it, p2p with it (all_gather under a sliding window)."""
    sequence_parallel: bool = False
    """Split norms and residuals along the sequence over the tensor-parallel ranks; needs 2 of those or
    more."""
    distributed_timeout_minutes: float = 5.0
    """Minutes that ranks wait for one that hangs (Megatron's option) before they say which, and end. Saving
    and loading may take longer, as long as every rank gives signs of life."""
    use_distributed_optimizer: bool = passed(True, optimizer="use_distributed_optimizer")
    """Shard optimizer states over the data-parallel ranks."""

    # --- kernels: a named one runs or stops, never degrades ---
    transformer_engine: str | bool = "auto"
    """Transformer Engine's layers: auto (where installed), true (stop without) or false."""
    rotary_kernel: str = "auto"
    """Rotary kernel: auto (triton on a GPU, native on a CPU; the log says which and why), triton,
    transformer_engine (no YaRN or LongRoPE), apex (fp32, half-rotate), native (compiled for CPUs with AVX2)
    or torch."""
    attention_backend: str = "auto"
    """Causal attention: transformer_engine (in its layers), native (compiled for CPUs), sdpa (PyTorch's) or
    rows (whole rows of scores by oneDNN, on CPUs); or shifted: LongLoRA's attention in groups, for training
    alone, which computes something else and is never taken by auto. auto, here and for the next four: the
    fastest of those that can run; on CPUs it is measured at the run's own shapes, and kept. A backend of
    another package is taken, and imported, only where its name is written."""
    shifted_attention_group: int | None = None
    """Tokens of a group with attention_backend: shifted; even, and so that groups make up a sample. null: a
    quarter of the training length, as the paper has it."""
    norm_backend: str = "auto"
    """Norms: transformer_engine (in its layers), native (RMSNorm only) or torch."""
    activation_backend: str = "auto"
    """Of the MLP: megatron (its fused one, on GPUs), transformer_engine (in its layers), native (SwiGLU only)
    or torch."""
    softmax_backend: str = "auto"
    """Softmax of the loss: native or torch."""
    matmul_backend: str = "auto"
    """Products of linear layers and of the loss: transformer_engine (in its layers), torch or onednn (on
    CPUs)."""
    bias_activation_fusion: bool | None = None
    """NeMo's spelling: true means megatron for activation_backend, and stops where that cannot run; false
    means PyTorch's operators on GPUs. null: activation_backend decides."""
    bias_dropout_fusion: bool | None = passed(None, transformer="bias_dropout_fusion")
    """Megatron's fused addition of the residual. null: where CUDA is."""
    masked_softmax_fusion: bool | None = passed(None, transformer="masked_softmax_fusion")
    """Megatron's fused softmax of a score matrix, which no attention here computes. null: where CUDA is."""
    gradient_accumulation_fusion: bool | None = passed(None, transformer="gradient_accumulation_fusion")
    """Add weight gradients up within their products; needs the extension fused_weight_gradient_mlp_cuda of
    NVIDIA apex. null: where that and CUDA are."""
    overlap_grad_reduce: bool | None = passed(None, ddp="overlap_grad_reduce")
    """Reduce gradients over the replicas while the backward pass computes. null: where CUDA is."""
    overlap_param_gather: bool | None = passed(
        None, ddp="overlap_param_gather", optimizer="overlap_param_gather"
    )
    """Gather updated weights from the replicas while the forward pass computes; needs overlap_grad_reduce and
    use_distributed_optimizer. null: where CUDA and those two are."""
    apply_rope_fusion: bool | None = None
    """NeMo's spelling: true means the first of triton, transformer_engine, apex and native that can run, or
    the one named by rotary_kernel, and stops where none can; false means torch. null: rotary_kernel
    decides."""

    # --- loss ---
    loss: str = "auto"
    """chunked: from the hidden states, logits of some tokens at a time; full: whole logits, the largest
    tensor of a long sequence; auto: chunked. Both give the same numbers."""
    loss_chunk_size: int | None = None
    """Tokens whose logits exist at once. null: half the hidden size, within 512 and 2048."""
    cross_entropy_loss_fusion: bool | None = None
    """NeMo's spelling: true asks for chunked, false for full. null: loss decides."""

    # --- less memory, more compute ---
    mlp_chunk_size: int | str | None = None
    """Tokens that pass through a layer's MLP at a time, forward and backward; its hidden layer, the largest
    part of a long sample's memory once whole layers are recomputed, then exists for those alone. Computes the
    MLP's forward pass once more. auto: the hidden size, at least 1024. null: all at once."""
    activations_checkpoint_granularity: str | None = None
    """selective (the modules named below) or full (whole layers). null: keep all."""
    activations_checkpoint_modules: list[str] | None = None
    """For selective: which of core_attn and mlp. PyTorch's attention keeps nothing large; mlp keeps only the
    MLP's input of each layer, about half of what the layer would keep. Or all_but_core_attn alone: whole
    layers as under full, except for attention, of which output and log-sum-exp are kept, as much again as a
    layer's input; at long windows attention is most of what recomputation costs. null: [core_attn]."""
    activations_checkpoint_method: str | None = None
    """For full: uniform (chunks of num_layers) or block (the first num_layers only). null: uniform."""
    activations_checkpoint_num_layers: int | None = None
    """Layers of one chunk (uniform), or recomputed per stage (block). null: 1."""
    activations_offload: str | None = None
    """Where what recomputed layers keep (full, or all_but_core_attn) waits for the backward pass: host
    (pinned memory beside a GPU, over a stream of its own, back one layer ahead) or disk (a file that ends
    with the process: for CPUs, and for windows beyond the host's memory). null: where it is."""
    activations_offload_folder: str | None = None
    """Folder of that file for disk, on a disk that is fast and no memory itself. null: where the system's
    temporary files go (TMPDIR)."""

    # --- adapters in place of all weights ---
    peft: PeftConfig | None = None
    """Low-rank adapters, with NeMo's names: {peft_scheme: lora, lora_tuning: {adapter_dim: 32, alpha: null,
    adapter_dropout: 0.0, target_modules: [attention_qkv], variant: nemo, column_init_method: xavier},
    train_embeddings_and_norms: false}; docs/adapters.md explains them. null: all weights are trained."""

    # --- stages ---
    stages: list[dict[str, Any]] | None = None
    """Trainings one after the other in one run: a list of sections with max_steps and any keys of model that
    differ, dotted or nested, as in [{max_steps: 150, pose: paper}, {max_steps: 50, optim.lr: 5e-4}]. What a
    stage does not say is as model says it. Adam's state and the place in the data go on from stage to stage
    (reset_optimizer: true, reset_data: true begin anew); export.hf_path in a stage exports it, too. null: one
    training of trainer.max_steps, which stages do not read."""

    # --- steps that must not reach the weights ---
    skip_bad_steps: int = 0
    """Steps that the run may leave out, in all, because their loss or gradient norm is not finite or the norm
    is over ten times the usual one (the median of the last 32). 0: the first that is not finite ends the run
    before it changes a weight, and spikes are trained on."""

    # --- randomness ---
    seed: int = 1234
    """Seed of random weights and, unless data.seed is given, of the order of samples."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """tokenizer"""
    data: DataConfig = field(default_factory=DataConfig)
    """data"""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """optimizer: the recipe of arXiv 2306.15595"""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """measured while the run trains, on its own ranks"""
    export: ExportConfig = field(default_factory=ExportConfig)
    """Hugging Face folder written at the end"""


@dataclass
class RunConfig:
    """A whole run: the top level of conf/extend_context.yaml and conf/pretrain.yaml."""

    name: str = "extend_context"
    """Name of the run; folders and loggers use it."""
    restore_from_path: str | None = None
    """Checkpoint to start from: distributed or Hugging Face folder. null: model.restore_from_path."""
    dry_run: bool = False
    """Check what is given, and stop after the printed plan."""
    force: bool = False
    """Start although the plan's estimate is more memory than there is."""
    stages: list[dict[str, Any]] | None = None
    """Trainings one after the other in one run; or model.stages, which says what they may hold."""
    trainer: dict[str, Any] = field(default_factory=dict)
    """lightning.Trainer's own arguments (devices, num_nodes, precision, max_steps, ...)."""
    exp_manager: dict[str, Any] = field(default_factory=dict)
    """NeMo's exp_manager arguments (exp_dir, resume_if_exists, checkpoint_callback_params, ...)."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The model, how it is extended, laid out and trained."""
