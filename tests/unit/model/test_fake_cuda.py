"""A training step of the whole model away from the CPU, on tensors without storage.

torch's fake tensors know their device and refuse to be mixed with those of another, which real tensors do on
a GPU alone. The device is `meta` in place of `cuda`, which autograd of a CPU build does not know; whatever
asks for CUDA is told that it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from megatron.core.tensor_parallel import random as megatron_random
from megatron.core.transformer.module import Float16Module
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from nemo_pi.engine.batches import MicroBatch, micro_batches
from nemo_pi.model.core_attention import DocumentBoundaries
from nemo_pi.model.options import BackendRequests, BuildOptions, Recompute
from nemo_pi.rope.query_scale import QueryScale
from nemo_pi.rope.spec import ContextExtension
from tests.unit.model.models import SHAPE, WINDOW, build, plain

pytestmark = pytest.mark.usefixtures("one_rank")

AWAY = torch.device("meta")
LENGTH = 1100  # more than one block of queries under a sliding window
DOCUMENTS = DocumentBoundaries(((0, 700, LENGTH), (0, LENGTH)))
BF16 = BuildOptions(
    params_dtype=torch.bfloat16, backends=BackendRequests(rotary="torch"), loss_chunk_tokens=512
)


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tensors are fake, and what is made on the current device is made away from the CPU."""
    # Megatron's fused activation is compiled when it is first called, which fake tensors cannot be part of.
    with torch.compiler.set_stance("force_eager"), FakeTensorMode(allow_non_fake_inputs=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: AWAY)
        monkeypatch.setattr(nn.Module, "_apply", _apply)
        # A CUDA generator, and its state around recomputed layers.
        monkeypatch.setattr(megatron_random.CudaRNGStatesTracker, "fork", lambda *_: nullcontext())
        for name in ("_get_cuda_rng_state", "_set_cuda_rng_state"):
            monkeypatch.setattr(megatron_random, name, lambda *_, **__: torch.empty(0, dtype=torch.uint8))
        yield


def _apply(module: nn.Module, convert: Callable[[Tensor], Tensor]) -> nn.Module:
    """nn.Module._apply, which cannot exchange the data of a fake parameter."""
    for part in module.modules():
        for name, old in part._parameters.items():
            if old is not None:
                new = nn.Parameter(convert(old.detach()))
                new.__dict__ = {**old.__dict__, **new.__dict__}
                part._parameters[name] = new
    return module


def model(options: BuildOptions = BF16, extension: ContextExtension | None = None, **shape: Any) -> nn.Module:
    """As the engine makes it: built on the current device, moved there, its weights in bf16."""
    built = build(replace(SHAPE, **shape), extension, options).to(AWAY)
    wrapped: nn.Module = Float16Module(built.config, built)
    return wrapped


def sample(documents: DocumentBoundaries | None = None) -> MicroBatch:
    """A micro-batch of two rows, made on the CPU as loaders make it."""
    tokens = torch.zeros(2, LENGTH, dtype=torch.int64)
    batch = {
        "tokens": tokens,
        "labels": tokens,
        "loss_mask": torch.ones(2, LENGTH),
        "position_ids": torch.arange(LENGTH).expand_as(tokens),
    }
    (made,) = micro_batches(batch, 2, AWAY, rotary_length=LENGTH)
    return replace(made, documents=documents)


def loss_of(module: nn.Module, batch: MicroBatch) -> Tensor:
    """The summed loss, as the engine asks for it."""
    loss: Tensor = module(**batch.inputs, labels=batch.labels, loss_mask=batch.loss_mask)
    return loss


BIASES = dict.fromkeys(("qkv_bias", "proj_bias", "mlp_bias", "parallel_residual"), True)
RECOMPUTED = replace(BF16, recompute=Recompute("full", "uniform", 1))
YARN = ContextExtension(WINDOW, 16 * WINDOW, "yarn", 16.0, SHAPE.head_dim)


# A sliding layer with a base of its own, which is not rotated in the second; queries that grow in both.
DIFFERING: dict[str, Any] = {
    "extension": replace(plain(), sliding=plain(base=500.0), query_scale=QueryScale(0.1, WINDOW)),
    "sliding_window": 600,
    "full_attention_layers": (1,),
    "unrotated_layers": (1,),
}


@pytest.mark.parametrize(
    ("settings", "documents"),
    [
        ({}, None),
        ({}, DOCUMENTS),
        ({"sliding_window": 600}, None),
        ({"num_query_groups": SHAPE.num_attention_heads}, None),  # rotated in place
        ({"extension": plain(interleaved=True), "tied_embeddings": True}, None),
        ({"extension": YARN}, None),
        ({"options": RECOMPUTED}, None),
        ({**DIFFERING, "options": RECOMPUTED}, DOCUMENTS),
        ({"family": "qwen2", "qkv_bias": True}, None),
        ({"family": "qwen3", "qk_norm": True}, None),
        ({"family": "phi", "activation": "gelu_tanh", "qk_norm": True, **BIASES}, None),
        ({"family": "stablelm", "parallel_residual": True}, None),
        ({"family": "nemotron", "activation": "relu2"}, None),
    ],
    ids=[
        "whole rows",
        "documents",
        "sliding window",
        "in place",
        "interleaved",
        "yarn",
        "recomputed",
        "layers that differ",
        "biases",
        "norms of heads",
        "biases everywhere",
        "a parallel residual",
        "weights around 0",
    ],
)
def test_nothing_of_a_step_stays_on_the_cpu(
    settings: dict[str, Any], documents: DocumentBoundaries | None, away: None
) -> None:
    module = model(**settings)
    assert {weight.device for weight in module.parameters()} == {AWAY}
    assert {weight.dtype for weight in module.parameters()} == {torch.bfloat16}
    loss = loss_of(module, sample(documents))
    loss.backward()
    assert (loss.device, loss.dtype, loss.dim()) == (AWAY, torch.float32, 0)
    for name, weight in module.named_parameters():
        assert weight.grad is not None, name
        assert (weight.grad.device, weight.grad.dtype) == (AWAY, torch.bfloat16), name


def test_a_tensor_of_the_cpu_is_noticed(away: None) -> None:
    module, batch = model(), sample()
    with pytest.raises(RuntimeError, match="same device"):
        loss_of(module, replace(batch, labels=batch.labels.cpu()))
