"""What a model is built of, and that nothing about it is guessed a second time."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace

import pytest
import torch
from torch import nn

from nemo_pi.errors import BackendUnavailableError
from nemo_pi.kernels import native
from nemo_pi.kernels.backends import JOBS
from nemo_pi.model.backends import ROTARY, SLIDING, Workload, check_requests, choose_backends, obstacles
from nemo_pi.model.options import BackendRequests, BuildOptions
from nemo_pi.parallel.layout import ParallelLayout
from tests.unit.model.models import SHAPE, build, forward, plain, random_tokens

WIDE = replace(SHAPE, hidden_size=64, num_attention_heads=4, head_dim=16, ffn_hidden_size=96)
"""Of widths that the compiled kernels take."""
REQUESTS = [
    BackendRequests(),
    BackendRequests("torch", "sdpa", "torch", "torch", "torch", "torch"),
    BackendRequests("torch", "rows", "torch", "torch", "torch", "onednn"),
]
if native.obstacle() is None:
    REQUESTS.append(BackendRequests("native", "native", "native", "native", "native", "torch"))


def parts(model: nn.Module) -> dict[str, set[object]]:
    """What really does each job, in every layer."""
    layers = model.decoder.layers
    norms = [model.decoder.final_layernorm, *(layer.input_layernorm for layer in layers)]
    norms += [layer.pre_mlp_layernorm for layer in layers]
    linear = [part for layer in layers for part in (layer.mlp.linear_fc1, layer.mlp.linear_fc2)]
    for layer in layers:
        linear += [layer.self_attention.linear_qkv, layer.self_attention.linear_proj]
    return {
        "attention": {layer.self_attention.core_attention.backend for layer in layers},
        "norm": {norm.backend for norm in norms},
        "activation": {layer.mlp.activation_func for layer in layers},
        "softmax": {model._softmax},
        "matmul": {model.products, *(part.products for part in linear)},
        ROTARY: {layer.self_attention._kernel for layer in layers},
    }


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("shape", [SHAPE, WIDE, replace(WIDE, sliding_window=9)])
@pytest.mark.parametrize("requests", REQUESTS)
def test_every_layer_is_made_of_what_was_chosen(shape: object, requests: BackendRequests) -> None:
    work = Workload(shape, plain(), ParallelLayout())  # type: ignore[arg-type]
    try:
        chosen = choose_backends(work, requests)
    except BackendUnavailableError:
        with pytest.raises(BackendUnavailableError):
            build(shape, options=BuildOptions(backends=requests))  # type: ignore[arg-type]
        return
    found = parts(build(shape, options=BuildOptions(backends=requests)))  # type: ignore[arg-type]
    assert found == {**{job: {chosen.load(job)} for job in JOBS}, ROTARY: {chosen.rotary.backend}}
    assert set(chosen.names()) == set(chosen.describe()) == {*JOBS, ROTARY}


@pytest.mark.usefixtures("one_rank")
def test_all_of_them_compute_the_same() -> None:
    """Losses, and gradients of every weight, within rounding of fp32."""
    results = []
    weights = None
    for requests in REQUESTS:
        model = build(WIDE, options=BuildOptions(init_method_std=0.15, backends=requests))
        if weights is None:
            weights = copy.deepcopy(model.state_dict())
        model.load_state_dict(weights)
        losses = forward(model, random_tokens(length=48), None, random_tokens(length=48, seed=1))
        losses.sum().backward()
        results.append([losses.detach(), *(weight.grad for weight in model.parameters())])
    for other in results[1:]:
        for ours, theirs in zip(other, results[0], strict=True):
            assert (ours - theirs).norm() < 1e-4 * theirs.norm()


def test_one_short_line_of_the_log_and_one_that_says_it_all(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "_load", lambda: "there is no compiler")
    work = Workload(replace(SHAPE, vocab_size=1234), plain(), ParallelLayout())
    with caplog.at_level(logging.DEBUG, logger="nemo_pi.kernels.registry"):
        for _ in range(3):
            choose_backends(work, BackendRequests(norm="torch"))
    everything, short = caplog.records
    assert (everything.levelno, short.levelno) == (logging.DEBUG, logging.INFO)
    assert "model.attention_backend: auto chose" in everything.message
    assert "model.norm_backend: torch, as asked for" in everything.message
    assert short.message.startswith("auto chose rotary torch, attention ") and "norm" not in short.message
    assert short.message.count("there is no compiler") == 1 and len(short.message) < 200


def test_a_check_looks_at_names_alone() -> None:
    work = Workload(SHAPE, plain(), ParallelLayout(), dtype=torch.bfloat16)
    check_requests(work, BackendRequests())
    with pytest.raises(BackendUnavailableError, match="matmul_backend"):
        check_requests(work, BackendRequests(matmul="onednn"))


MIXED = replace(WIDE, num_layers=3, sliding_window=9, full_attention_layers=(1,))


@pytest.mark.usefixtures("one_rank")
@pytest.mark.skipif(native.obstacle() is not None, reason="no compiled kernels")
def test_a_window_in_some_layers_leaves_the_others_their_backend() -> None:
    """What knows no window serves the layers without one; before, all of them had PyTorch's."""
    work = Workload(MIXED, plain(), ParallelLayout())
    requests = BackendRequests(attention="native", sliding_attention="sdpa")
    chosen = choose_backends(work, requests)
    assert (chosen.names()["attention"], chosen.names()[SLIDING]) == ("native", "sdpa")
    assert choose_backends(work, chosen.requests()).names() == chosen.names()
    model = build(MIXED, options=BuildOptions(backends=requests))
    used = [layer.self_attention.core_attention.backend for layer in model.decoder.layers]
    assert used == [chosen.load(SLIDING), chosen.load("attention"), chosen.load(SLIDING)]
    other = build(MIXED, options=BuildOptions(backends=BackendRequests(attention="sdpa")))
    other.load_state_dict(model.state_dict())
    ours, theirs = (forward(one, random_tokens(length=48)) for one in (model, other))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_backend_asked_for_by_name_is_meant_for_all_layers() -> None:
    """One that knows no window is refused as long as one layer has one; `auto` takes it for the others."""
    work = Workload(MIXED, plain(), ParallelLayout())
    for request in ("native", "rows"):
        with pytest.raises(BackendUnavailableError, match="it knows no sliding window"):
            check_requests(work, BackendRequests(attention=request))
    recorded = BackendRequests(attention="sdpa", settled={"attention": "as this run began"})
    assert choose_backends(work, recorded).names()[SLIDING] == "sdpa"
    assert (SLIDING, "rows") in obstacles(work, BackendRequests())
    assert SLIDING not in Workload(MIXED, plain(9), ParallelLayout()).needs()  # it hides nothing
