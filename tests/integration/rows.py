"""What is special of a layout, and what training on one rank must come to; crossings.py has the rest."""

from __future__ import annotations

from dataclasses import dataclass

TP2 = ("model.tensor_model_parallel_size=2",)
SP = ("model.sequence_parallel=true",)
PP2 = ("model.pipeline_model_parallel_size=2",)
VPP2 = ("model.virtual_pipeline_model_parallel_size=2",)
CP2 = ("model.context_parallel_size=2",)
CP4 = ("model.context_parallel_size=4",)
PLAIN_OPTIMIZER = ("model.use_distributed_optimizer=false",)
# Samples of several documents, each seeing only itself; the token after a document's end is not scored, so
# micro-batches and replicas hold different numbers of scored tokens.
DOCUMENTS = (
    "model.data.reset_position_ids=true",
    "model.data.reset_attention_mask=true",
    "model.data.eod_mask_loss=true",
)
# Off by itself on CPUs.
OVERLAP = ("model.overlap_grad_reduce=true", "model.overlap_param_gather=true")
WHOLE_LOGITS = ("model.loss=full",)
# Rows of 256 tokens: the last chunk is a part of one.
ODD_CHUNKS = ("model.loss_chunk_size=100",)
RECOMPUTE = ("model.activations_checkpoint_granularity=full",)
# Rows of 256 tokens in slices of 100, or two of 50 from sequence parts: the last one is a part of one.
TILES = ("model.mlp_chunk_size=100",)
# Every layer's input in a file; and with all of it, attention is spared and kept there, too.
DISK = RECOMPUTE + ("model.activations_offload=disk",)
SPARED = (
    "model.activations_checkpoint_granularity=selective",
    "model.activations_checkpoint_modules=[all_but_core_attn]",
)
TRICKS = SPARED + TILES + ("model.activations_offload=disk",)
# A larger learning rate: at 1e-3, a norm's weight of 1 does not move by one step of bfloat16.
BF16 = ("trainer.precision=bf16-mixed", "model.optim.lr=1.0e-2")
# The classes whose tensors the start models have; of a Llama's, one could not say how far they moved.
OWN_BAICHUAN = (
    "model.export.architecture=BaichuanForCausalLM",
    "model.pos_scaling_type=none",
    "model.pos_scaling_factor=1.0",
    "model.max_position_embeddings=64",
)
OWN_INTERN = ("model.export.architecture=InternLM2ForCausalLM",)
# Trained further at the whole window: a scaled GPT-J leaves as a Phi, under other names than it came in by.
UNSCALED = ("model.pos_scaling_type=none", "model.pos_scaling_factor=null")
DYNAMIC = ("model.pos_scaling_type=dynamic",)
ALL_LAYERS = ("model.pos_scaling_layers=all", "model.pos_scaling_type=yarn")
RATES = ("model.optim.lr_multipliers={attention_qkv: 10, mlp_fc2: 0.5}",)
LONG = ("trainer.max_steps=20", "trainer.val_check_interval=20")


@dataclass(frozen=True)
class Tolerance:
    """How far a run may be from the reference."""

    loss: float = 1e-6
    """Relative, every step, training and validation."""
    grad_norm: float = 5e-6
    """Relative, every step."""
    update: float = 2e-4
    """Distance of any final tensor from the reference's, as a part of the distance training moved it."""


@dataclass(frozen=True)
class Row:
    """A run that is compared with the same run on one rank."""

    name: str
    proves: str
    """What fails if this row does."""
    overrides: tuple[str, ...] = ()
    """What differs from the one-rank run: the layout."""
    ranks: int = 1
    both: tuple[str, ...] = ()
    """Overrides of the one-rank run, too."""
    model: str = "untied"
    """Start model, one of world.STARTS."""
    launcher: str = "warm"
    tolerance: Tolerance = Tolerance()
    slow: bool = False


ROWS = (
    Row("accumulate", "gradients add up over micro-batches", ("model.micro_batch_size=2",)),
    Row(
        "accumulate-documents",
        "micro-batches with unequal numbers of scored tokens are weighed by tokens",
        ("model.micro_batch_size=4",),
        both=DOCUMENTS,
    ),
    Row("whole-logits", "the chunked loss and its gradients are those of whole logits", WHOLE_LOGITS),
    Row(
        "tp2-sp-chunks",
        "chunks of a split vocabulary, hidden states gathered from sequence parts, tokens left out",
        TP2 + SP + ODD_CHUNKS,
        2,
        both=DOCUMENTS,
        model="tied",
    ),
    Row(
        "tp2-whole-logits",
        "whole logits of a split vocabulary, too",
        TP2 + WHOLE_LOGITS,
        2,
    ),
    Row("recompute", "recomputed activations, rotary tables included", RECOMPUTE),
    Row("tp2-tied", "split vocabulary shared by input and output", TP2, 2, model="tied"),
    Row("tp2-sp-recompute", "recomputed layers under sequence parallelism", TP2 + SP + RECOMPUTE, 2),
    Row(
        "pp2-tied", "the embedding's gradient adds up over the first and the last stage", PP2, 2, model="tied"
    ),
    Row("pp2-vpp2-tied", "shared embeddings under interleaving", PP2 + VPP2, 2, model="tied"),
    Row("dp2-plain", "replicas with whole optimizer states", PLAIN_OPTIMIZER, 2),
    Row(
        "dp2-bf16",
        "16-bit weights with fp32 main copies, sharded",
        (),
        2,
        both=BF16,
        tolerance=Tolerance(loss=1e-3, grad_norm=2e-2, update=0.3),
    ),
    Row(
        "cp2-tied",
        "parts of a sequence add up in an embedding that input and output share",
        CP2,
        2,
        model="tied",
    ),
    Row("cp2-recompute", "keys gathered again in recomputed layers", CP2 + RECOMPUTE, 2),
    Row(
        "cp2-bf16",
        "16-bit keys gathered, their gradients added up in 32",
        CP2,
        2,
        both=BF16,
        tolerance=Tolerance(loss=1e-3, grad_norm=2e-2, update=0.3),
    ),
    Row("cp2-moved-text", "chunks read from further on, by the paper's text", CP2, 2, both=("pose=paper",)),
    Row("tp2-cp2-released", "the released code's draws", TP2 + CP2, 4, both=("pose=released",)),
    Row(
        "cp2-dp2",
        "ranks of one sequence read the same sample; unequal numbers of scored tokens on all four",
        CP2,
        4,
        both=DOCUMENTS,
    ),
    Row(
        "tp2-pp2-all",
        "SP, interleaving and shared embeddings together",
        TP2 + SP + PP2 + VPP2,
        4,
        model="tied",
    ),
    Row("tp2-dp2", "tensor parallel replicas, gradient norm over both", TP2 + SP, 4),
    Row("pp2-dp2", "pipelined replicas, shared embeddings", PP2, 4, model="tied"),
    Row("odd-tp2-sp", "padding of a vocabulary that does not divide is no token", TP2 + SP, 2, model="odd"),
    Row("odd-tp2-whole-logits", "nor to whole logits", TP2 + WHOLE_LOGITS, 2, model="odd"),
    Row("odd-tp2-pp2", "nor where both ends share it", TP2 + PP2, 4, model="odd_tied"),
    Row("mistral-tp2-sp", "a window in every layer, wide heads, split", TP2 + SP, 2, model="mistral"),
    Row("mistral-pp2", "and on two stages, recomputed", PP2 + RECOMPUTE, 2, model="mistral"),
    Row("mistral-cp2", "and on split rows of documents", CP2, 2, both=DOCUMENTS, model="mistral"),
    Row("qwen2-tp2", "biases and per-layer windows on split heads", TP2, 2, model="qwen2"),
    Row("qwen2-tp2-sp", "biases beside sequence parts", TP2 + SP, 2, model="qwen2"),
    Row("qwen2-pp2", "layers with a window are counted over stages", PP2, 2, model="qwen2"),
    Row("qwen2-cp2", "windows of some layers on split rows", CP2, 2, both=DOCUMENTS, model="qwen2"),
    Row("qwen3-tp2", "gradients of query and key norms add up over heads", TP2, 2, model="qwen3"),
    Row("qwen3-tp2-sp", "and once only under sequence parallelism", TP2 + SP, 2, model="qwen3"),
    Row("qwen3-pp2", "norms of heads on two stages", PP2, 2, model="qwen3"),
    Row("qwen3-cp2", "normalised keys gathered", CP2 + RECOMPUTE, 2, model="qwen3"),
    Row("phi-tp2", "biases of split and of whole outputs, of logits too", TP2 + ODD_CHUNKS, 2, model="phi"),
    Row("phi-tp2-sp", "one norm before both, its gradients from both", TP2 + SP, 2, model="phi"),
    Row("phi-pp2", "one norm before both, recomputed", PP2 + RECOMPUTE, 2, model="phi"),
    Row("phi-cp2", "biases on split rows", CP2, 2, both=DOCUMENTS, model="phi"),
    Row("neox-tp2-sp", "fused heads dealt out, norms with biases", TP2 + SP, 2, model="gpt_neox"),
    Row("neox-pp2", "attention beside the MLP on two stages", PP2, 2, model="gpt_neox"),
    Row("neox-cp2", "and on split rows, recomputed", CP2 + RECOMPUTE, 2, model="gpt_neox"),
    Row("gptj-tp2-sp", "neighbouring channels of split heads", TP2 + SP, 2, UNSCALED, "gptj"),
    Row("gptj-pp2", "and on two stages, a bias of logits on the last", PP2, 2, UNSCALED, "gptj"),
    Row("gptj-cp2", "and on split rows", CP2, 2, UNSCALED + DOCUMENTS, "gptj"),
    Row("stablelm-tp2-sp", "a gated MLP beside attention", TP2 + SP, 2, model="stablelm"),
    Row("stablelm-pp2", "and on two stages", PP2, 2, model="stablelm"),
    Row("stablelm-cp2", "partly rotated keys gathered", CP2, 2, both=DOCUMENTS, model="stablelm"),
    Row("nemotron-tp2-sp", "weights around 0, added to 1 on every rank", TP2 + SP, 2, model="nemotron"),
    Row("nemotron-pp2", "no gate to split on two stages", PP2, 2, model="nemotron"),
    Row("nemotron-cp2", "nor on split rows", CP2, 2, model="nemotron"),
    Row("smollm3-tp2-sp", "layers without positions beside sequence parts", TP2 + SP, 2, model="smollm3"),
    Row("smollm3-pp2", "which layers are rotated is counted over stages", PP2, 2, model="smollm3"),
    Row("smollm3-cp2", "keys without positions gathered", CP2, 2, both=DOCUMENTS, model="smollm3"),
    Row("ministral3-tp2-sp", "growing queries recomputed", TP2 + SP + RECOMPUTE, 2, model="ministral3"),
    Row("ministral3-pp2", "growing queries on every stage", PP2, 2, model="ministral3"),
    Row("ministral3-cp2", "queries grow with positions, not places", CP2, 2, DOCUMENTS, "ministral3"),
    Row("phi3-tp2-sp", "parts of fused tensors, half-rotated heads", TP2 + SP, 2, model="phi3"),
    Row("phi3-pp2", "a tied output of fused layers", PP2, 2, model="phi3"),
    Row("phi3-cp2", "windows on split rows", CP2, 2, both=DOCUMENTS, model="phi3"),
    Row("granite-tp2-sp", "embedding and logits multiplied on split rows", TP2 + SP, 2, model="granite"),
    Row("granite-pp2", "each end multiplies on its stage only", PP2 + WHOLE_LOGITS, 2, model="granite"),
    Row("granite-cp2", "scores multiplied in merged parts", CP2, 2, both=DOCUMENTS, model="granite"),
    Row("olmo2-tp2", "norms over the heads of both ranks, forward and backward", TP2, 2, model="olmo2"),
    Row("olmo2-tp2-sp", "and once only where norms behind see parts", TP2 + SP + RECOMPUTE, 2, model="olmo2"),
    Row("olmo2-pp2", "norms behind on two stages", PP2, 2, model="olmo2"),
    Row("olmo2-cp2", "normalised keys of all heads gathered", CP2, 2, both=DOCUMENTS, model="olmo2"),
    Row("glm4-tp2-sp", "norms behind add up over sequence parts", TP2 + SP, 2, model="glm4"),
    Row("glm4-pp2", "norms on either side, recomputed", PP2 + RECOMPUTE, 2, model="glm4"),
    Row("glm4-cp2", "neighbouring channels of half a head", CP2, 2, both=DOCUMENTS, model="glm4"),
    Row(
        "baichuan-tp2-sp", "a third of each part of W_pack", TP2 + SP, 2, both=OWN_BAICHUAN, model="baichuan"
    ),
    Row("baichuan-pp2", "and on two stages", PP2, 2, both=OWN_BAICHUAN, model="baichuan"),
    Row("baichuan-cp2", "and on split rows", CP2, 2, both=OWN_BAICHUAN, model="baichuan"),
    Row("internlm2-tp2-sp", "groups dealt out as they are stored", TP2 + SP, 2, OWN_INTERN, "internlm2"),
    Row("internlm2-pp2", "under names of its own", PP2, 2, OWN_INTERN, "internlm2"),
    Row("internlm2-cp2", "and on split rows", CP2, 2, OWN_INTERN, "internlm2"),
    Row("olmo3-tp2-sp", "norms over all heads, tables of two kinds", TP2 + SP, 2, model="olmo3"),
    Row("olmo3-pp2", "kinds of layers are counted over stages", PP2, 2, DYNAMIC, model="olmo3"),
    Row("olmo3-cp2", "full and sliding layers on split rows", CP2, 2, DOCUMENTS, model="olmo3"),
    Row(
        "gemma3-tp2-sp",
        "zero-centred norms on sequence parts; the embedding's part of the gradient is scaled by its width",
        TP2 + SP + RECOMPUTE,
        2,
        model="gemma3",
        tolerance=Tolerance(grad_norm=2e-5),
    ),
    Row("gemma3-pp2", "embeddings are scaled once, and shared", PP2, 2, ALL_LAYERS, model="gemma3"),
    Row("gemma3-cp2", "scores divided otherwise on split rows", CP2, 2, DOCUMENTS, model="gemma3"),
    Row("tp2-sp-tiles", "slices of sequence parts, in recomputed layers", TP2 + SP + RECOMPUTE + TILES, 2),
    Row("tp2-tiles", "slices of split hidden layers with biases", TP2 + TILES, 2, model="phi"),
    Row("pp2-vpp2-tiles", "and of several micro-batches in flight", PP2 + VPP2 + TILES, 2, both=DOCUMENTS),
    Row(
        "cp2-tiles", "and of split rows, replicas overlapping", CP2 + TILES + OVERLAP, 2, both=("pose=paper",)
    ),
    Row("tp2-sp-disk", "sequence parts that wait in a file", TP2 + SP + DISK, 2),
    Row("pp2-vpp2-disk", "several micro-batches wait at once", PP2 + VPP2 + DISK, 2, both=DOCUMENTS),
    Row("pp2-spared", "attention is spared on every stage", PP2 + SPARED, 2, both=("pose=paper",)),
    Row("cp2-spared", "and of split rows", CP2 + SPARED, 2, both=DOCUMENTS),
    Row("tp2-sp-tricks", "all of it on sequence parts", TP2 + SP + TRICKS, 2, model="qwen3"),
    Row("pp2-tricks", "on stages, tied", PP2 + TRICKS, 2, ("pose=paper",), "tied"),
    Row("cp2-tricks", "on split rows of documents", CP2 + TRICKS + OVERLAP, 2, DOCUMENTS),
    Row(
        "gemma3-tp2-tricks",
        "layers with windows and norms behind",
        TP2 + TRICKS,
        2,
        model="gemma3",
        tolerance=Tolerance(grad_norm=2e-5),  # as without them, above
    ),
    Row("dp2-overlap", "gradients and weights travel while layers compute", OVERLAP, 2, model="tied"),
    Row("pp2-dp2-overlap", "and on pipelined replicas", PP2 + OVERLAP, 4, slow=True),
    Row("tp2-sp-rates", "layers at rates of their own, split, with biases", TP2 + SP, 2, RATES, "phi"),
    Row("pp2-rates", "and on stages", PP2, 2, RATES, "tied"),
    Row("dp2-rates", "and in optimizer states that replicas share", (), 2, RATES),
    Row("torchrun", "the same through torchrun itself", TP2 + SP, 2, launcher="torchrun"),
    Row(
        "lightning",
        "Lightning's own launcher: trainer.devices=2",
        ("trainer.devices=2",),
        2,
        launcher="lightning",
    ),
    Row(
        "tp2-pp2-20-steps",
        "torchrun, four ranks, 20 steps: the loss curve of one rank",
        TP2 + PP2,
        4,
        both=LONG,
        launcher="torchrun",
        tolerance=Tolerance(loss=1e-5, grad_norm=1e-3, update=1e-2),
        slow=True,
    ),
)
