"""An estimate of the memory of the fullest rank, from arithmetic alone.

Weights, gradients and optimizer states are exact; activations count what autograd keeps of one layer
(arXiv 2205.05198, section 4, redone for the kinds of layers that families have, grouped queries and
attention without a score matrix). Left out: the framework itself (about 1 GiB with CUDA), communication
buffers, fragmentation (a third more was seen on a CPU). benchmarks/memory_estimate.py compares it with what
torch allocates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nemo_pi.config.kernels import backends_of, is_for_this_machine
from nemo_pi.config.optimizer_memory import state_bytes
from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.families.lora import LINEARS, num_adapted
from nemo_pi.families.registry import family_of
from nemo_pi.families.table import qkv_rows
from nemo_pi.model.options import DISK

_FP32 = 4


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one rank while a training step is at its fullest."""

    weights: int
    """Parameters in the precision they compute in."""
    gradients: int
    """Accumulated gradients, fp32, of what is trained."""
    optimizer: int
    """Of what is trained: two moments, and fp32 main copies of 16-bit weights; sharded by the distributed
    optimizer."""
    activations: int
    """What the forward passes in flight keep for their backward passes."""
    logits: int
    """What the loss holds on top of the activations; 0 except on the last pipeline stage."""
    backward: int
    """What the first layer of a backward pass holds on top of the activations, when the loss is done."""
    host: int = 0
    """Host memory beside a GPU: what recomputed layers keep, and offloaded optimizer states."""
    disk: int = 0
    """Of a file where it waits otherwise."""

    @property
    def working(self) -> int:
        """The larger of `logits` and `backward`, which come one after the other."""
        return max(self.logits, self.backward)

    @property
    def total(self) -> int:
        """All of it that the device holds."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.working


def estimate_memory(run: ResolvedRun) -> MemoryEstimate:
    """The fullest rank's memory: of the first pipeline stage or of the last, whichever is larger."""
    stages = {0, run.parallel.pp - 1}
    return max((estimate_stage(run, stage) for stage in stages), key=lambda estimate: estimate.total)


def estimate_stage(run: ResolvedRun, stage: int) -> MemoryEstimate:
    """Memory of a rank of pipeline stage `stage`, counted from 0."""
    parameters, trained = stage_parameters(run, stage), trained_parameters(run, stage)
    width = run.compute_dtype.itemsize
    shards = run.parallel.dp * run.parallel.cp if run.engine.optim.use_distributed_optimizer else 1
    states, away, gradient = state_bytes(run)
    is_last = stage == run.parallel.pp - 1
    on_disk = run.recompute.offload == DISK
    waiting = _elsewhere(run, stage)
    return MemoryEstimate(
        weights=(parameters + adapter_parameters(run)) * width,
        gradients=trained * gradient,
        optimizer=int(trained * states) // shards,
        activations=_activations(run, stage),
        logits=_logits(run) if is_last else 0,
        backward=_backward(run),
        host=(0 if on_disk else waiting) + int(trained * away) // shards,
        disk=waiting if on_disk else 0,
    )


def stage_parameters(run: ResolvedRun, stage: int) -> int:
    """Parameters that one tensor-parallel rank of a pipeline stage holds."""
    shape, tp, pp = run.shape, run.parallel.tp, run.parallel.pp
    family = family_of(shape)
    parameters = shape.num_layers // pp * family.layer_parameters(shape, tp)
    table = shape.vocab_rows(tp) * shape.hidden_size
    if stage == 0:
        parameters += table
    if stage == pp - 1:
        # Tied embeddings are one table on one stage, and a copy of it where the ends are apart.
        shared = shape.tied_embeddings and pp == 1
        last = (family.final_norm, *family.last_biases)
        parameters += sum(rule.num_parameters(shape, tp) for rule in last) + (0 if shared else table)
    return parameters


def adapter_parameters(run: ResolvedRun) -> int:
    """Numbers of adapters that one tensor-parallel rank of a pipeline stage holds."""
    lora, shape = run.engine.build.lora, run.shape
    if lora is None:
        return 0
    return num_adapted(lora, shape, layers=shape.num_layers // run.parallel.pp, tp=run.parallel.tp)


def trained_parameters(run: ResolvedRun, stage: int) -> int:
    """Of what a rank holds, that which has gradients and optimizer states: all of it, unless adapters are
    trained."""
    lora, shape, tp, pp = run.engine.build.lora, run.shape, run.parallel.tp, run.parallel.pp
    if lora is None:
        return stage_parameters(run, stage)
    family = family_of(shape)
    kept = [rule for rule in family.layer_rules(shape) if lora.trains(rule.megatron)]
    found = adapter_parameters(run)
    found += shape.num_layers // pp * sum(rule.num_parameters(shape, tp) for rule in kept)
    if lora.embeddings_and_norms:
        table = shape.vocab_rows(tp) * shape.hidden_size
        ends = [stage == 0, stage == pp - 1 and shape.tied_embeddings and pp > 1]
        last = [rule for rule in (family.final_norm, *family.last_biases) if lora.trains(rule.megatron)]
        found += table * sum(ends)
        found += sum(rule.num_parameters(shape, tp) for rule in last) if stage == pp - 1 else 0
    return found


def layer_bytes_per_token(run: ResolvedRun) -> int:
    """Bytes that autograd keeps of one layer for one token, nothing recomputed.

    What its family says, and the log-sum-exp of every query head. Without sequence parallelism the norms are
    whole on every tensor-parallel rank. A tiled MLP keeps nothing but its input.
    """
    shape, layout, width = run.shape, run.parallel, run.compute_dtype.itemsize
    kept = family_of(shape).kept_channels(shape)
    unread, inner = _unread_channels(run)
    residual = width * (kept.residual - unread)
    mlp = 0 if is_tiled(run) else width * (kept.mlp - inner)
    attention = width * kept.attention + _FP32 * shape.num_attention_heads
    return residual // (layout.tp if layout.sequence_parallel else 1) + (attention + mlp) // layout.tp


def _unread_channels(run: ResolvedRun) -> tuple[int, int]:
    """Channels per token that frozen linear layers without an adapter do not keep for their weights' sake:
    norms' outputs, and the MLP's product."""
    lora, shape = run.engine.build.lora, run.shape
    if lora is None:
        return 0, 0
    kind = family_of(shape).layer_kind(shape)
    qkv, fc1, fc2 = (linear not in lora.linears for linear in (LINEARS[0], LINEARS[2], LINEARS[3]))
    norms = (qkv and fc1) if kind.shared_norm else qkv + fc1
    return (norms * shape.hidden_size if kind.norms_before else 0), fc2 * shape.ffn_hidden_size


def tokens_of_a_rank(run: ResolvedRun) -> int:
    """Tokens of one micro-batch that a rank's matrices see."""
    return run.micro_batch_size * run.training_length // run.parallel.cp


def is_tiled(run: ResolvedRun) -> bool:
    """Whether a micro-batch passes through the MLP in several slices."""
    chunk = run.engine.build.mlp_chunk_tokens
    return chunk is not None and chunk < tokens_of_a_rank(run)


def _recomputed_bytes_per_token(run: ResolvedRun) -> int:
    """What of that is thrown away and made again, for one layer at a time, under selective recomputation.

    What the MLP's hidden layer keeps; core attention keeps next to nothing to begin with.
    """
    if "mlp" not in run.recompute.modules:
        return 0
    return run.compute_dtype.itemsize * family_of(run.shape).kept_channels(run.shape).mlp // run.parallel.tp


def _activations(run: ResolvedRun, stage: int) -> int:
    """Chunks in flight times what each keeps, plus the layers being recomputed, plus the rotary tables."""
    layout, recompute = run.parallel, run.recompute
    layers, tokens = layout.layers_per_chunk(run.shape.num_layers), tokens_of_a_rank(run)
    whole_layer = layer_bytes_per_token(run)
    # Cosine and sine of a token: half as many numbers each as channels are rotated.
    tables = _FP32 * run.extension.rotary_dim * len(run.extension.kinds)
    in_flight = _chunks_in_flight(run, stage)
    if recompute.is_ours:
        # Of the layer that is being computed again, and of the next, which is on its way back.
        kept = layers - _recomputed_layers(run)
        elsewhere = _put_away_per_token(run) * (
            1 if recompute.offload else in_flight * _recomputed_layers(run)
        )
        return tokens * (in_flight * (kept * whole_layer + tables) + elsewhere + whole_layer)
    if recompute.granularity != "full":
        again = _recomputed_bytes_per_token(run)
        return tokens * (in_flight * (layers * (whole_layer - again) + tables) + again)
    layer_input = _put_away_per_token(run)
    number = recompute.num_layers or 1
    if recompute.method == "block":
        # The first layers of a chunk keep their inputs, and are computed anew one at a time.
        kept = number * layer_input + (layers - number) * whole_layer
        working = whole_layer
    else:
        # Uniform: each group of layers keeps its input, and is computed anew as a whole.
        kept = -(-layers // number) * layer_input
        working = number * whole_layer
    return tokens * (in_flight * (kept + tables) + working)


def _put_away_per_token(run: ResolvedRun) -> int:
    """Bytes that a recomputed layer keeps for a token: its input and what spared attention returned."""
    shape, layout, width = run.shape, run.parallel, run.compute_dtype.itemsize
    layer_input = width * shape.hidden_size // (layout.tp if layout.sequence_parallel else 1)
    if not run.recompute.keeps_attention:
        return layer_input
    query, *_ = qkv_rows(shape)
    return layer_input + (width * query + _FP32 * shape.num_attention_heads) // layout.tp


def _recomputed_layers(run: ResolvedRun) -> int:
    """Of one chunk."""
    layers = run.parallel.layers_per_chunk(run.shape.num_layers)
    return min(layers, run.recompute.num_layers or 1) if run.recompute.method == "block" else layers


def _elsewhere(run: ResolvedRun, stage: int) -> int:
    """Bytes that wait in host memory or in a file."""
    if run.recompute.offload is None:
        return 0
    waiting = _chunks_in_flight(run, stage) * _recomputed_layers(run)
    return waiting * tokens_of_a_rank(run) * _put_away_per_token(run)


def _chunks_in_flight(run: ResolvedRun, stage: int) -> int:
    """Forward passes of model chunks that wait for their backward pass on one stage, at most."""
    pp, vpp, micro = run.parallel.pp, run.parallel.vpp, run.num_micro_batches
    if vpp is None:
        # 1F1B: each stage is ahead of the last one by as many passes as there are stages between.
        return min(pp - stage, micro)
    # Interleaved 1F1B: the warm-up fills all chunks but the last, and 2 per stage further ahead, plus one.
    return min((vpp - 1) * pp + 2 * (pp - stage - 1) + 1, micro * vpp)


def _backward(run: ResolvedRun) -> int:
    """The backward pass of one layer's activation at its fullest.

    Gradients of its result and of its input and, where it is gated, a scratch of the result's size, which
    itself is gone by then. Compiled kernels write over gate and up, which leaves the gradient of the product.
    Beside them the gradient of the layer's output.
    """
    shape, layout, width = run.shape, run.parallel, run.compute_dtype.itemsize
    residual = shape.hidden_size // (layout.tp if layout.sequence_parallel else 1)
    native = is_for_this_machine(run) and backends_of(run).others["activation"].name == "native"
    gated = family_of(shape).layer_kind(shape).gated
    channels = (1 if native else 3 if gated else 2) * shape.ffn_hidden_size // layout.tp
    if is_tiled(run):
        return max(_tiled_backward(run, channels, residual), _attention_backward(run))
    return tokens_of_a_rank(run) * width * (channels + residual)


def _tiled_backward(run: ResolvedRun, channels: int, residual: int) -> int:
    """Of a tiled MLP: a slice's forward and backward pass, and the gradients of its weights and its input.

    The weights' gradients add up in fp32, beside those of the slice.
    """
    shape, tp, width = run.shape, run.parallel.tp, run.compute_dtype.itemsize
    family, slice_ = family_of(shape), run.engine.build.mlp_chunk_tokens or 0
    rules = [rule for rule in family.layer_rules(shape) if ".mlp." in rule.megatron]
    weights = sum(rule.num_parameters(shape, tp) for rule in rules)
    hidden = slice_ * width * (family.kept_channels(shape).mlp // tp + channels)
    return hidden + weights * (_FP32 + width) + 2 * tokens_of_a_rank(run) * width * residual


def _attention_backward(run: ResolvedRun) -> int:
    """Gradients of attention's output and of query, key and value, which come together in the projection's.

    The gradients of the residual stream lie where the MLP's side of the layer has been freed by then.
    """
    shape, width = run.shape, run.compute_dtype.itemsize
    query, *others = (rows // run.parallel.tp for rows in qkv_rows(shape))
    return tokens_of_a_rank(run) * width * (query + 2 * (query + sum(others)))


def _logits(run: ResolvedRun) -> int:
    """The loss at its fullest.

    Chunked: the 16-bit or fp32 logits and the fp32 softmax of one chunk (on a CPU in place of fp32 logits),
    its 16-bit copy in place of 16-bit logits, and the gradients that the forward pass leaves: of the output
    weights in fp32, with one chunk's product beside it under 16 bits, and of the hidden states. Full: the
    fp32 softmax, computed in place of fp32 logits; 16-bit logits exist beside it.
    """
    width, shape, layout = run.compute_dtype.itemsize, run.shape, run.parallel
    tokens = tokens_of_a_rank(run)
    rows = shape.vocab_rows(layout.tp)
    beside = width if width < _FP32 else 0
    chunk_tokens = run.engine.build.loss_chunk_tokens
    if chunk_tokens is None:
        return tokens * rows * (_FP32 + beside)
    chunk = min(chunk_tokens, tokens)
    gathered = 2 if layout.sequence_parallel else 1
    hidden = gathered * tokens * shape.hidden_size * width
    logits = 0 if width == _FP32 and not torch.cuda.is_available() else width
    weights = rows * shape.hidden_size * (_FP32 + beside) if _trains_output(run) else 0
    return chunk * rows * (_FP32 + logits) + weights + hidden


def _trains_output(run: ResolvedRun) -> bool:
    """Whether the output weights get a gradient: beside adapters only where they are the embedding."""
    lora = run.engine.build.lora
    return lora is None or (lora.embeddings_and_norms and run.shape.tied_embeddings)
