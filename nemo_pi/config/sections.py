"""The smaller sections of `model`: tokenizer, data, optimizer, schedule, export; each key explained."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_pi.config.megatron import passed


@dataclass
class TokenizerConfig:
    """Which tokenizer made the data (`model.tokenizer`)."""

    library: str | None = None
    """huggingface, sentencepiece or byte. null: the checkpoint's own tokenizer."""
    type: str | None = None
    """Hugging Face only: tokenizer class where the folder does not name it. null: read there."""
    model: str | None = None
    """Folder (huggingface) or file (sentencepiece). null: the checkpoint's own."""

    @property
    def files(self) -> str | None:
        """Folder or file that travels with checkpoints and exports; None for bytes, which need none."""
        return None if self.library == "byte" else self.model


@dataclass
class PoseConfig:
    """Positional skip-wise training, arXiv 2309.10400 (`model.data.pose`)."""

    sampler: str = "paper"
    """paper (as its text says), released (as its code draws), contiguous (equal chunks, unbroken text) or
    random (randomised positions, arXiv 2305.16843, for comparison)."""
    chunks: int = 2
    """Chunks of a sample, at least 2; more see more distances and resemble pretraining less."""
    content_offset: str | None = None
    """Where chunks after the first are read (paper): uniform, zero or aligned. null: uniform for paper and
    released, zero for the others."""


@dataclass
class DataConfig:
    """Which tokens are read, and in what order (`model.data`)."""

    data_prefix: str | list[Any] | dict[str, Any] | None = None
    """Indexed data without .bin/.idx, made by examples/preprocess_data.py: [prefix], a blend [0.5, prefix_a,
    0.5, prefix_b], or {train: [...], validation: [...], test: [...]}. null: none, in a dry run."""
    splits_string: str | list[Any] = "980,10,10"
    """Parts for training, validation and test, where data_prefix does not name the three."""
    seed: int | None = None
    """Seed of the order of samples. null: model.seed."""
    num_workers: int = 0
    """Loader processes per rank; 0 loads in the training process."""
    pose: PoseConfig | None = None
    """PoSE: train a long window by short samples whose positions skip through it, {sampler: paper, chunks: 2,
    content_offset: null}; conf/pose/*.yaml lists the samplers (pose=paper). null: positions run on."""
    length_weights: dict[int, float] | None = None
    """How often training reads a document in one pass, by its tokens: {0: 0.5, 4096: 1, 8192: 3} reads half
    of those below 4,096 (always the same half), and those from 8,192 on three times. Below the smallest
    number: once. null: all once."""
    pack_documents: bool = False
    """Pack whole documents into rows, each seeing only itself with positions from 0, padding not scored;
    false: laid end to end and cut where a sample is full."""
    reset_position_ids: bool = False
    """Start positions anew after every end-of-document token; false counts through the sample."""
    reset_attention_mask: bool = False
    """Keep documents from seeing each other; false lets a sample attend across its documents."""
    answer_only_loss: bool | None = None
    """Learn only what the assistant wrote in conversations, which examples/preprocess_data.py --chat marks;
    those longer than a sample are left out. true: every corpus must be marked; false: learn all of their
    text. null: the answers of corpora that are marked, all of the others."""
    eod_mask_loss: bool = False
    """Leave the prediction after an end-of-document token out of the loss; false counts it."""
    check_token_ids: bool = True
    """Read every token id once before training and refuse those outside the vocabulary."""


@dataclass
class SchedConfig:
    """The learning rate over the steps (`model.optim.sched`)."""

    name: str = "constant"
    """constant, linear or cosine (NeMo's CosineAnnealing, WarmupPolicy, WarmupHoldPolicy are understood)."""
    warmup_steps: int = 20
    """Steps of linear warm-up; 0 starts at the peak."""
    warmup_start_fraction: float = 0.1
    """Where the warm-up starts, as a part of lr; 0 starts at zero, 1 is no warm-up."""
    max_steps: int | None = None
    """Step at which linear and cosine arrive at min_lr. null: trainer.max_steps."""
    min_lr: float = 0.0
    """Learning rate at the end of linear and cosine; constant never goes there."""
    constant_steps: int = 0
    """Last steps spent at min_lr by linear and cosine; 0 decays to the very end."""


@dataclass
class OptimConfig:
    """AdamW, by whichever of its NeMo names (`model.optim`)."""

    name: str = "adamw"
    """adamw, adam, fused_adam, megatron_fused_adam or distributed_fused_adam: AdamW by any of NeMo's
    names."""
    lr: float = passed(2e-5, optimizer="lr")
    """Peak learning rate."""
    betas: tuple[float, float] = passed((0.9, 0.95), optimizer=("adam_beta1", "adam_beta2"))
    """Decay of the running means of gradient and squared gradient."""
    weight_decay: float = passed(0.0, optimizer="weight_decay")
    """Decoupled weight decay; 0 turns it off."""
    eps: float = passed(1e-8, optimizer="adam_eps")
    """Added to the root of the second moment."""
    lr_multipliers: dict[str, float] | None = None
    """Factors on the learning rate of some linear layers, by the names that model.peft's target_modules
    have: {attention_qkv: 10} trains queries, keys and values at 10 × lr. null: all alike."""
    optimizer_cpu_offload: bool | None = passed(None, optimizer="optimizer_cpu_offload")
    """Keep main weights and moments in the host's memory and step them there, beside a GPU (Megatron's
    option, with use_distributed_optimizer). null or false: on the device."""
    optimizer_offload_fraction: float | None = passed(None, optimizer="optimizer_offload_fraction")
    """Part of them that goes there, with optimizer_cpu_offload. null: 1, all of them."""
    overlap_cpu_optimizer_d2h_h2d: bool | None = passed(None, optimizer="overlap_cpu_optimizer_d2h_h2d")
    """Step on the host while gradients and weights travel, with optimizer_cpu_offload. null: Megatron's."""
    use_precision_aware_optimizer: bool | None = passed(None, optimizer="use_precision_aware_optimizer")
    """Let the four below be narrower than fp32 (Megatron's option; needs Transformer Engine's Adam, or
    optimizer_cpu_offload, which brings it along, and use_distributed_optimizer). null: as that asks."""
    main_grads_dtype: str | None = passed(None, optimizer="main_grads_dtype")
    """fp32 or bf16: of accumulated gradients, with use_precision_aware_optimizer. null: fp32."""
    main_params_dtype: str | None = passed(None, optimizer="main_params_dtype")
    """fp32 or fp16: of main weights, with use_precision_aware_optimizer. null: fp32."""
    exp_avg_dtype: str | None = passed(None, optimizer="exp_avg_dtype")
    """fp32, fp16, bf16 or fp8: of the first moment, with use_precision_aware_optimizer. null: fp32."""
    exp_avg_sq_dtype: str | None = passed(None, optimizer="exp_avg_sq_dtype")
    """fp32, fp16, bf16 or fp8: of the second moment, with use_precision_aware_optimizer. null: fp32."""
    sched: SchedConfig = field(default_factory=SchedConfig)
    """Learning rate over the steps."""


@dataclass
class LoraConfig:
    """Low-rank adapters beside linear layers, arXiv 2106.09685 (`model.peft.lora_tuning`)."""

    adapter_dim: int = 32
    """Rank of each adapter."""
    alpha: float | None = None
    """What an adapter adds is multiplied by alpha ÷ adapter_dim. null: adapter_dim."""
    adapter_dropout: float = 0.0
    """Part of an adapter's input that is left out at random in training; 0 leaves nothing out."""
    target_modules: list[str] = field(default_factory=lambda: ["attention_qkv"])
    """Which layers have one: attention_qkv, attention_dense, mlp_fc1, mlp_fc2, attention (the first two), mlp
    (the last two) or all; NeMo 2's linear_qkv, linear_proj, linear_fc1 and linear_fc2 are understood."""
    variant: str = "nemo"
    """nemo: query, key and value share one input matrix, and so do gate and up; canonical: each projection
    that Hugging Face stores has its own, as `peft` trains them."""
    column_init_method: str = "xavier"
    """First numbers of the input matrix: xavier or normal (NeMo's), or kaiming (peft's). The output matrix
    begins at 0."""


@dataclass
class PeftConfig:
    """Training adapters in place of all weights (`model.peft`)."""

    peft_scheme: str | None = "lora"
    """lora. null: none, all weights are trained."""
    lora_tuning: LoraConfig = field(default_factory=LoraConfig)
    """lora"""
    train_embeddings_and_norms: bool = False
    """Train the token embedding and all norms, too: at long windows adapters alone fall behind (LongLoRA,
    arXiv 2309.12307, section 3.3)."""


@dataclass
class EvaluationConfig:
    """What is measured while the run trains (`model.evaluation`)."""

    every: int = 200
    """Optimizer steps between measurements; the end of the run is measured as well."""
    tasks: dict[str, Any] | list[str] | None = None
    """Tasks of conf/evaluate.yaml, with their arguments: {passkey: {trials: 5}, perplexity: {stride: 512}},
    or [passkey]. null: nothing is measured."""
    documents: str | None = None
    """Held-out text for tasks that read some, JSON lines with a `text` key; documents no longer than the
    target window are left out. null: none."""
    stop_at: dict[str, Any] | None = None
    """Ends the run, as finished, at the measurement that reaches all of these: {k_max: 32768} (passkey),
    {effective_length: 32768} (ruler), or another lower bound of a task's own. null: all steps are trained."""
    add_bos: bool | None = None
    """Begin every window and prompt with the beginning-of-text token. null: where the tokenizer adds it."""
    batch_tokens: int = 8192
    """Tokens that one replica reads at a time; a longer window goes alone."""


@dataclass
class ExportConfig:
    """The Hugging Face folder written when training ends (`model.export`)."""

    hf_path: str | None = None
    """Folder to write. null: none."""
    dtype: str | None = None
    """float32, bfloat16, float16 or float64. null: the checkpoint's own."""
    architecture: str = "auto"
    """Class of transformers to write the model as: auto, or the name of one that computes the same function.
    auto: the family's own where transformers has it and it can compute the positions, else another one
    (Baichuan and InternLM2 are Llamas); the plan says which and why."""
    peft_path: str | None = None
    """Folder for adapters alone, as `peft` loads them, with the scaled config.json of their base beside them;
    hf_path gets them merged. null: none."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """The folders that are written."""
        return tuple(Path(path) for path in (self.hf_path, self.peft_path) if path is not None)
