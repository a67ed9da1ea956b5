from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from nemo_pi.config.memory import (
    estimate_memory,
    estimate_stage,
    layer_bytes_per_token,
    stage_parameters,
)
from nemo_pi.families.registry import family_of
from nemo_pi.kernels import native
from nemo_pi.model.options import Recompute
from nemo_pi.parallel.layout import ParallelLayout
from tests.unit.config.builders import SHAPE, changed, run_of

HIDDEN, FFN, QUERY, KEY, VOCAB, LAYERS = 256, 688, 256, 128, 2048, 4
LAYER = HIDDEN * (QUERY + 2 * KEY) + QUERY * HIDDEN + 3 * HIDDEN * FFN  # matrices of one layer


def run_with(precision: str = "32", **changes: Any) -> Any:
    return changed(run_of(trainer={"max_steps": 100, "precision": precision}), **changes)


def test_parameters_of_one_rank_are_the_model_s() -> None:
    assert stage_parameters(run_with(), 0) == family_of(SHAPE).num_parameters(SHAPE)
    tied = replace(SHAPE, tied_embeddings=True)
    assert stage_parameters(run_with(shape=tied), 0) == family_of(tied).num_parameters(tied)


BIASED = replace(
    SHAPE,
    family="phi",
    activation="gelu_tanh",
    qkv_bias=True,
    proj_bias=True,
    mlp_bias=True,
    parallel_residual=True,
)


@pytest.mark.parametrize("tied", [False, True])
def test_biases_of_the_ends_count(tied: bool) -> None:
    """Of the last norm, whole on every rank, and of the logits, a part on each."""
    shape = replace(BIASED, tied_embeddings=tied)
    family = family_of(shape)
    assert stage_parameters(run_with(shape=shape), 0) == family.num_parameters(shape)
    split = run_with(shape=shape, parallel=ParallelLayout(tp=2, pp=2))
    last = LAYERS // 2 * family.layer_parameters(shape, 2)
    assert stage_parameters(split, 1) == last + 2 * HIDDEN + VOCAB * HIDDEN // 2 + VOCAB // 2


def test_an_activation_without_a_gate_takes_less_backward() -> None:
    with_gate, without = (estimate_memory(run_with(shape=shape)).backward for shape in (SHAPE, BIASED))
    tokens = 4096
    # Gradients of its result and of its input; with a gate by operators, of one half more and a scratch.
    assert without == tokens * 4 * (2 * FFN + HIDDEN)
    assert with_gate in (tokens * 4 * (FFN + HIDDEN), tokens * 4 * (3 * FFN + HIDDEN))


def test_each_kind_of_layer_has_tables() -> None:
    run = run_with()
    own = replace(run.extension, sliding=replace(run.extension, base=500.0))
    more = estimate_memory(changed(run, extension=own)).activations - estimate_memory(run).activations
    assert more == 4096 * 4 * SHAPE.head_dim


def test_biases_are_split_and_norms_of_heads_are_not() -> None:
    llama = stage_parameters(run_with(parallel=ParallelLayout(tp=2)), 0)
    biased, normed = (
        stage_parameters(run_with(shape=replace(SHAPE, **changes), parallel=ParallelLayout(tp=2)), 0)
        for changes in ({"family": "qwen2", "qkv_bias": True}, {"family": "qwen3", "qk_norm": True})
    )
    assert biased - llama == LAYERS * (QUERY + 2 * KEY) // 2
    assert normed - llama == LAYERS * 2 * SHAPE.head_dim


def test_parameters_of_a_split_model() -> None:
    run = run_with(parallel=ParallelLayout(tp=2, pp=2))
    half = LAYERS // 2 * (LAYER // 2 + 2 * HIDDEN)
    assert stage_parameters(run, 0) == half + VOCAB * HIDDEN // 2
    assert stage_parameters(run, 1) == half + VOCAB * HIDDEN // 2 + HIDDEN
    tied = changed(run, shape=replace(SHAPE, tied_embeddings=True))
    assert stage_parameters(tied, 1) == stage_parameters(run, 1)


@pytest.mark.parametrize(
    ("precision", "layout", "sharded", "weights", "states"),
    [
        ("32", ParallelLayout(), True, 4, 8.0),
        ("32", ParallelLayout(dp=4), True, 4, 2.0),
        ("32", ParallelLayout(dp=4), False, 4, 8.0),
        ("bf16", ParallelLayout(), True, 2, 12.0),
        ("bf16", ParallelLayout(dp=2, cp=2), True, 2, 3.0),
    ],
)
def test_bytes_per_parameter(
    precision: str, layout: ParallelLayout, sharded: bool, weights: int, states: float
) -> None:
    run = run_with(precision, parallel=layout, use_distributed_optimizer=sharded)
    estimate = estimate_memory(run)
    assert estimate.weights == family_of(SHAPE).num_parameters(SHAPE) * weights
    assert estimate.gradients == family_of(SHAPE).num_parameters(SHAPE) * 4
    assert estimate.optimizer == pytest.approx(family_of(SHAPE).num_parameters(SHAPE) * states)
    parts = (estimate.weights, estimate.gradients, estimate.optimizer, estimate.activations)
    assert estimate.total == sum(parts) + max(estimate.logits, estimate.backward)


def test_backward_of_one_layer() -> None:
    """Three products' worth of SwiGLU's gradients (one where kernels write over them) and a residual."""
    parts = 3 if torch.cuda.is_available() or native.obstacle() else 1
    assert estimate_memory(run_with()).backward == 4096 * 4 * (parts * FFN + HIDDEN)
    split = run_with("bf16", parallel=ParallelLayout(tp=2, cp=2, sequence_parallel=True))
    assert estimate_memory(split).backward == 2048 * 2 * (3 * FFN // 2 + HIDDEN // 2)


def test_chunked_loss() -> None:
    """A chunk's fp32 logits, on a GPU twice (bf16: logits and fp32 softmax), and the gradients it leaves."""
    wide = 8 if torch.cuda.is_available() else 4
    hidden, weights = 4096 * HIDDEN, VOCAB * HIDDEN
    assert estimate_memory(run_with()).logits == 512 * VOCAB * wide + weights * 4 + hidden * 4
    assert estimate_memory(run_with("bf16")).logits == 512 * VOCAB * 6 + weights * 6 + hidden * 2
    one_chunk = run_with(loss_chunk_tokens=10**6)
    assert estimate_memory(one_chunk).logits == 4096 * VOCAB * wide + weights * 4 + hidden * 4
    split = run_with(parallel=ParallelLayout(tp=2, pp=2, cp=2), micro_batch_size=3)
    assert estimate_stage(split, 1).logits == 512 * 1024 * wide + weights * 2 + 3 * hidden * 2
    assert estimate_stage(split, 0).logits == 0
    gathered = run_with(parallel=ParallelLayout(tp=2, sequence_parallel=True))
    assert estimate_memory(gathered).logits == 512 * 1024 * wide + weights * 2 + 2 * hidden * 4


def test_whole_logits() -> None:
    whole = None
    assert estimate_memory(run_with(loss_chunk_tokens=whole)).logits == 4096 * VOCAB * 4
    assert estimate_memory(run_with("bf16", loss_chunk_tokens=whole)).logits == 4096 * VOCAB * 6
    split = run_with(parallel=ParallelLayout(tp=2, pp=2, cp=2), micro_batch_size=3, loss_chunk_tokens=whole)
    assert estimate_stage(split, 1).logits == 3 * 2048 * 1024 * 4
    assert estimate_stage(split, 0).logits == 0


def test_sequence_parallelism_splits_what_tensor_parallelism_leaves() -> None:
    whole = layer_bytes_per_token(run_with())
    tensor = layer_bytes_per_token(run_with(parallel=ParallelLayout(tp=2)))
    sequence = layer_bytes_per_token(run_with(parallel=ParallelLayout(tp=2, sequence_parallel=True)))
    norms = 2 * 2 * 4 * HIDDEN
    assert tensor == norms + (whole - norms) // 2
    assert sequence == whole // 2


@pytest.mark.parametrize(
    ("layout", "micro_batches", "stage", "chunks"),
    [
        (ParallelLayout(), 8, 0, 1),
        (ParallelLayout(pp=4), 8, 0, 4),
        (ParallelLayout(pp=4), 8, 3, 1),
        (ParallelLayout(pp=4), 2, 0, 2),
        (ParallelLayout(pp=2, vpp=2), 8, 0, 5),  # 2 · (2 − 1) warm-up, 2 ahead, 1 running
        (ParallelLayout(pp=2, vpp=2), 8, 1, 3),
        (ParallelLayout(pp=2, vpp=2), 2, 0, 4),
    ],
)
def test_chunks_in_flight(layout: ParallelLayout, micro_batches: int, stage: int, chunks: int) -> None:
    run = run_with(parallel=layout, num_micro_batches=micro_batches)
    tables = 64 * 4
    kept = layout.layers_per_chunk(LAYERS) * layer_bytes_per_token(run) + tables
    assert estimate_stage(run, stage).activations == 4096 * chunks * kept


def test_recomputation_keeps_layer_inputs() -> None:
    def bytes_per_token(*recompute: Any) -> int:
        run = run_with(recompute=Recompute(*recompute))
        return estimate_memory(run).activations // 4096 - 64 * 4

    whole, layer_input = layer_bytes_per_token(run_with()), 4 * HIDDEN
    assert bytes_per_token() == bytes_per_token("selective") == LAYERS * whole
    mlp = 4 * 3 * FFN
    assert bytes_per_token("selective", None, None, ("mlp",)) == LAYERS * (whole - mlp) + mlp
    assert bytes_per_token("full", "uniform", 1) == LAYERS * layer_input + whole
    assert bytes_per_token("full", "uniform", 2) == LAYERS // 2 * layer_input + 2 * whole
    assert bytes_per_token("full", "block", 1) == layer_input + 3 * whole + whole


def test_a_tiled_mlp_keeps_its_input_alone() -> None:
    whole, tiled = run_with(), run_with(mlp_chunk_tokens=512)
    assert layer_bytes_per_token(whole) - layer_bytes_per_token(tiled) == 4 * 3 * FFN
    one_slice = run_with(mlp_chunk_tokens=4096)
    assert estimate_memory(one_slice) == estimate_memory(whole)


def test_backward_of_a_tiled_mlp() -> None:
    """Attention's of the whole row, or a slice's with the weights' gradients, whichever is larger."""
    assert estimate_memory(run_with(mlp_chunk_tokens=64)).backward == 4096 * 4 * (
        QUERY + 2 * (QUERY + 2 * KEY)
    )
    parts = 3 if torch.cuda.is_available() or native.obstacle() else 1
    hidden = 4000 * 4 * (3 + parts) * FFN
    gradients = 3 * HIDDEN * FFN * 8 + 2 * 4096 * 4 * HIDDEN
    assert estimate_memory(run_with(mlp_chunk_tokens=4000)).backward == hidden + gradients


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_one_layer_keeps_what_autograd_says(precision: str) -> None:
    """The real layer's saved tensors, counted by storage, against the formula."""
    run = run_with(precision)
    short, long = (_saved_bytes(run.compute_dtype, num_layers) for num_layers in (1, 3))
    measured = (long - short) / 2
    # The formula leaves out one fp32 number per norm.
    assert measured == pytest.approx(layer_bytes_per_token(run), abs=8)


def _saved_bytes(dtype: torch.dtype, num_layers: int, tokens: int = 128) -> float:
    """Bytes per token that autograd holds after the forward pass of a model, parameters not counted."""
    from nemo_pi.model.build import BuildOptions, build_model_chunks
    from nemo_pi.parallel.cpu_shim import cpu_shim
    from nemo_pi.rope.spec import ContextExtension

    layout = ParallelLayout()
    extension = ContextExtension.unscaled(tokens, SHAPE.head_dim)
    shape = replace(SHAPE, num_layers=num_layers)
    with cpu_shim():
        model = build_model_chunks(shape, extension, layout, BuildOptions(params_dtype=dtype))[0]
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    held: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.arange(tokens).unsqueeze(0)
    with cpu_shim(), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        model(input_ids=ids, position_ids=ids, attention_mask=None, labels=ids)
    return sum(held.values()) / tokens
