"""From sizes to Megatron's model: parameters, dtypes, seeds, and recomputation that changes nothing."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from nemo_pi.errors import BackendUnavailableError
from nemo_pi.families.registry import family_of
from nemo_pi.families.shape import ModelShape
from nemo_pi.model.build import BuildOptions, check_backends, check_documents, transformer_config
from nemo_pi.model.core_attention import DocumentBoundaries
from nemo_pi.model.options import Recompute
from nemo_pi.parallel.cpu_shim import cpu_shim
from nemo_pi.parallel.layout import ParallelLayout
from nemo_pi.rope.spec import ContextExtension
from tests.unit.model.models import SHAPE, build, forward, plain, random_tokens

SHAPES: list[dict[str, Any]] = [
    {},
    {"tied_embeddings": True},
    {"num_query_groups": 1, "num_layers": 3},
    {"head_dim": 24, "ffn_hidden_size": 100, "vocab_size": 97},
    {"family": "qwen2", "qkv_bias": True},
    {"family": "qwen3", "qk_norm": True},
]


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("changes", SHAPES, ids=str)
def test_has_the_parameters_its_shape_says(changes: dict[str, Any]) -> None:
    shape: ModelShape = replace(SHAPE, **changes)
    model = build(shape, ContextExtension.unscaled(64, shape.head_dim))
    assert sum(parameter.numel() for parameter in model.parameters()) == family_of(shape).num_parameters(
        shape
    )
    assert any("bias" in name for name, _ in model.named_parameters()) == shape.qkv_bias


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_have_the_dtype_asked_for(dtype: torch.dtype) -> None:
    model = build(options=BuildOptions(params_dtype=dtype))
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


@pytest.mark.usefixtures("one_rank")
def test_fresh_weights_have_the_standard_deviation_asked_for() -> None:
    weight = build(options=BuildOptions(init_method_std=0.3)).embedding.word_embeddings.weight
    assert weight.std().item() == pytest.approx(0.3, rel=0.05)


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("changes", SHAPES, ids=str)
def test_left_out_numbers_leave_out_nothing_else(changes: dict[str, Any]) -> None:
    """Megatron marks split weights, of which gradient norms are told, only where it draws their numbers."""
    shape: ModelShape = replace(SHAPE, **changes)
    extension = ContextExtension.unscaled(64, shape.head_dim)
    drawn, empty = (
        build(shape, extension, BuildOptions(initialize=initialize)) for initialize in (True, False)
    )
    marks = ("tensor_model_parallel", "partition_dim", "partition_stride", "sequence_parallel", "allreduce")
    for (name, one), (_, other) in zip(drawn.named_parameters(), empty.named_parameters(), strict=True):
        assert [getattr(one, mark, None) for mark in marks] == [
            getattr(other, mark, None) for mark in marks
        ], name


def test_megatron_is_told_of_layout_and_shape() -> None:
    layout = ParallelLayout(tp=2, pp=2, vpp=2, sequence_parallel=True)
    shape = replace(SHAPE, num_layers=4, sliding_window=9)
    config = transformer_config(
        shape, layout, BuildOptions(params_dtype=torch.bfloat16), rotary_interleaved=True
    )
    assert config.tensor_model_parallel_size == config.pipeline_model_parallel_size == 2
    assert config.virtual_pipeline_model_parallel_size == 2 and config.sequence_parallel
    assert config.pipeline_dtype == config.params_dtype == torch.bfloat16 and config.bf16
    assert config.window_size == (8, 0)  # beside the query's own token
    assert config.rotary_interleaved and config.calculate_per_token_loss
    assert config.hidden_dropout == config.attention_dropout == 0.0


@pytest.mark.parametrize(
    ("asked", "engine", "window", "expected"),
    [
        (None, False, None, "all_gather"),
        ("all_gather", False, None, "all_gather"),
        (None, True, None, "p2p"),
        (None, True, 9, "all_gather"),
        ("a2a", True, 9, "a2a"),
    ],
)
def test_megatron_is_told_how_context_ranks_exchange_keys(
    asked: str | None, engine: bool, window: int | None, expected: str
) -> None:
    layout = ParallelLayout(cp=2, cp_comm_type=asked)
    options = BuildOptions(transformer_engine=engine)
    config = transformer_config(replace(SHAPE, sliding_window=window), layout, options)
    assert (config.context_parallel_size, config.cp_comm_type) == (2, expected)


def test_a_ring_needs_transformer_engine() -> None:
    layout = ParallelLayout(cp=2, cp_comm_type="p2p")
    with pytest.raises(BackendUnavailableError, match="cp_comm_type"):
        check_backends(SHAPE, plain(), layout, BuildOptions())
    check_backends(SHAPE, plain(), layout, BuildOptions(transformer_engine=True))


@pytest.mark.parametrize(
    ("layout", "window", "engine", "refused"),
    [
        (ParallelLayout(cp=2), 9, True, True),
        (ParallelLayout(cp=2, cp_comm_type="all_gather"), None, True, True),
        (ParallelLayout(cp=2), None, True, False),
        (ParallelLayout(cp=2), 9, False, False),
        (ParallelLayout(), 9, True, False),
    ],
)
def test_documents_that_transformer_engine_cannot_gather(
    layout: ParallelLayout, window: int | None, engine: bool, refused: bool
) -> None:
    given = replace(SHAPE, sliding_window=window), layout, BuildOptions(transformer_engine=engine)
    if not refused:
        check_documents(*given)
        return
    with pytest.raises(BackendUnavailableError, match=r"pack_documents.*transformer_engine: false"):
        check_documents(*given)


def losses_and_gradients(
    options: BuildOptions, documents: DocumentBoundaries | None
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    torch.manual_seed(8)
    model = build(replace(SHAPE, num_layers=4), options=options).train()
    positions_BS = torch.arange(24).expand(2, 24) * 3
    losses_BS = forward(model, random_tokens(), positions_BS, random_tokens(seed=1), documents)
    with cpu_shim():
        losses_BS.sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return losses_BS.detach(), gradients  # type: ignore[return-value]


RECOMPUTE = [
    BuildOptions(recompute=Recompute("full", "uniform", 1)),
    BuildOptions(recompute=Recompute("full", "uniform", 2)),
    BuildOptions(recompute=Recompute("full", "block", 2)),
    BuildOptions(recompute=Recompute("selective")),
    BuildOptions(recompute=Recompute("selective", modules=("mlp",))),
    BuildOptions(recompute=Recompute("selective", modules=("core_attn", "mlp"))),
]


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("options", RECOMPUTE)
def test_recomputation_changes_nothing(options: BuildOptions, packed: bool) -> None:
    """Same operations on the same numbers: equal bit for bit."""
    documents = DocumentBoundaries(((0, 7, 24), (0, 24))) if packed else None
    kept = losses_and_gradients(BuildOptions(), documents)
    again = losses_and_gradients(options, documents)
    assert torch.equal(kept[0], again[0])
    for name, gradient in kept[1].items():
        assert torch.equal(gradient, again[1][name]), name


@pytest.mark.usefixtures("one_rank")
def test_packed_documents_equal_the_same_documents_alone() -> None:
    """Losses, and gradients summed over the documents; each document's positions start at 0."""
    spans = ((0, 5, 6, 24), (0, 13, 24))
    options = BuildOptions(init_method_std=0.15)
    packed, alone = build(options=options), build(options=options)
    alone.load_state_dict(packed.state_dict())
    tokens_BS, labels_BS = random_tokens(), random_tokens(seed=1)
    positions_BS = torch.stack([torch.cat([torch.arange(b - a) for a, b in pairwise(row)]) for row in spans])
    losses_BS = forward(packed, tokens_BS, positions_BS, labels_BS, DocumentBoundaries(spans))
    losses_BS.sum().backward()
    for row, starts in enumerate(spans):
        for a, b in pairwise(starts):
            part = forward(alone, tokens_BS[row : row + 1, a:b], None, labels_BS[row : row + 1, a:b])
            torch.testing.assert_close(losses_BS[row, a:b], part[0], rtol=1e-5, atol=1e-5)
            part.sum().backward()
    others = dict(alone.named_parameters())
    for name, parameter in packed.named_parameters():
        torch.testing.assert_close(parameter.grad, others[name].grad, rtol=1e-4, atol=1e-4, msg=name)
