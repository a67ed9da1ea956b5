"""Megatron's fused parts: on where CUDA is, and never half asked for."""

from __future__ import annotations

import pytest
import torch

from nemo_pi.errors import BackendUnavailableError
from nemo_pi.model import fusions as module
from nemo_pi.model.backends import choose_backends, workload
from nemo_pi.model.build import check_backends, transformer_config
from nemo_pi.model.fusions import FUSIONS, fusions
from nemo_pi.model.options import BackendRequests, BuildOptions
from nemo_pi.parallel.layout import ParallelLayout
from tests.unit.model.models import SHAPE, plain


def on_machine(monkeypatch: pytest.MonkeyPatch, *, cuda: bool, apex: bool = False) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(module, "find_spec", lambda name: object() if apex else None)


@pytest.mark.parametrize(("cuda", "apex"), [(False, True), (True, False), (True, True)])
def test_on_where_they_can_be(cuda: bool, apex: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And Megatron's own checks take them."""
    on_machine(monkeypatch, cuda=cuda, apex=apex)
    config = transformer_config(SHAPE, ParallelLayout(), BuildOptions(), fused_activation=cuda)
    assert {name: getattr(config, name) for name in FUSIONS} == {
        "bias_dropout_fusion": cuda,
        "masked_softmax_fusion": cuda,
        "gradient_accumulation_fusion": cuda and apex,
    }
    assert config.bias_activation_fusion is cuda and config.use_te_activation_func is not cuda


@pytest.mark.parametrize("name", FUSIONS)
def test_false_turns_each_off(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    on_machine(monkeypatch, cuda=True, apex=True)
    found = fusions(BuildOptions(megatron={name: False}))
    assert [key for key, value in found.items() if not value] == [name]


@pytest.mark.parametrize("name", FUSIONS)
def test_true_is_an_error_where_it_cannot_be(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = BuildOptions(megatron={name: True})
    on_machine(monkeypatch, cuda=True, apex=True)
    assert fusions(options)[name]
    on_machine(monkeypatch, cuda=False, apex=True)
    with pytest.raises(BackendUnavailableError, match=f"model.{name}.*no CUDA device"):
        check_backends(SHAPE, plain(), ParallelLayout(), options)


def test_gradient_accumulation_needs_its_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    on_machine(monkeypatch, cuda=True)
    with pytest.raises(BackendUnavailableError, match="fused_weight_gradient_mlp_cuda"):
        fusions(BuildOptions(megatron={"gradient_accumulation_fusion": True}))


@pytest.mark.parametrize(
    ("engine", "attention", "norm"),
    [(True, "transformer_engine", "transformer_engine"), (False, "sdpa", "torch")],
)
def test_what_gpus_get(engine: bool, attention: str, norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformer Engine's parts in its layers; Megatron's fused activation in both."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("nemo_pi.kernels.registry.is_installed", lambda name: True)
    options = BuildOptions(params_dtype=torch.bfloat16, transformer_engine=engine)
    work = workload(SHAPE, plain(), ParallelLayout(), options)
    names = choose_backends(work, BackendRequests(rotary="torch")).names()
    assert (names["attention"], names["norm"], names["activation"]) == (attention, norm, "megatron")
    assert names["softmax"] == "torch" and names["matmul"] == ("transformer_engine" if engine else "torch")
