"""Adapters against `peft`'s beside transformers' layers: same weights, same tokens, same first numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor

from nemo_pi.engine.engine import MegatronEngine
from nemo_pi.engine.optimizer import optimizer_tensors
from nemo_pi.families.fusion import fuse
from nemo_pi.families.lora import CANONICAL, LINEARS, Lora, adapter_rules, num_trained
from nemo_pi.model.options import ALL_BUT_ATTENTION, BackendRequests, BuildOptions, Recompute
from tests.unit.engine.loops import SMOOTH, PlainLoop, engine_of, random_batch
from tests.unit.model.models import SHAPE, transformers_model

pytestmark = pytest.mark.usefixtures("one_rank")

STEPS = 10
FULL = Recompute("full", "uniform", 1)
LORA = Lora(dim=4, alpha=8.0, linears=LINEARS, variant=CANONICAL)


def peft_model(folder: Path, lora: Lora = LORA, **settings: Any) -> PeftModel:
    """transformers' model of a folder with peft's adapters, both of whose matrices are random."""
    model = transformers_model(**settings)
    model.save_pretrained(folder)
    rules = adapter_rules(lora, SHAPE)
    names = {name.split(".")[-2] for one in rules for name in one.weight.huggingface}
    kept = ["embed_tokens", "norm"] if lora.embeddings_and_norms else None
    config = LoraConfig(
        r=lora.dim, lora_alpha=lora.alpha, target_modules=sorted(names), modules_to_save=kept, bias="none"
    )
    wrapped = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.1, generator=generator)
    return wrapped


def take_from_peft(engine: MegatronEngine, wrapped: PeftModel, lora: Lora = LORA) -> None:
    """Gives our adapters the numbers of peft's."""
    theirs = dict(wrapped.named_parameters())

    def stored(name: str, layer: int) -> Tensor:
        matrix = name.format(n=layer).removesuffix(".weight")
        return theirs[f"base_model.model.{matrix}.default.weight"].detach()

    for layer in engine.chunks[0].decoder.layers:
        number = layer.layer_number - 1
        for rules in adapter_rules(lora, engine.settings.shape):
            adapter = layer.get_submodule(rules.linear).adapter
            a = torch.cat([stored(name, number) for name in rules.a.huggingface])
            parts = [stored(name, number) for name in rules.b.huggingface]
            adapter.lora_A.data.copy_(a)
            adapter.lora_B.data.copy_(fuse(parts, rules.b, engine.settings.shape))


@pytest.mark.parametrize(
    "recompute", [Recompute(), Recompute("full", "uniform", 1)], ids=["kept", "recomputed"]
)
@pytest.mark.parametrize("more", [False, True], ids=["adapters", "with-norms"])
def test_ten_steps_equal_peft_s(tmp_path: Path, more: bool, recompute: Recompute) -> None:
    lora = replace(LORA, embeddings_and_norms=more)
    wrapped = peft_model(tmp_path / "start", lora)
    engine = engine_of(
        tmp_path / "start",
        build=BuildOptions(lora=lora, recompute=recompute),
        micro_batch_size=2,
        train=False,
    )
    take_from_peft(engine, wrapped, lora)
    engine.start_training()
    loop = PlainLoop(wrapped)
    for step in range(STEPS):
        batch = random_batch(seed=step)
        loss, norm = loop.step(batch, SMOOTH.lr)
        engine.set_lr(SMOOTH.lr)
        assert engine.forward_backward(batch) == pytest.approx(loss, rel=1e-5)
        assert engine.step() == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "distributed"])
@pytest.mark.parametrize("more", [False, True], ids=["adapters", "with-norms"])
def test_frozen_weights_have_no_gradients_and_no_optimizer_states(more: bool, sharded: bool) -> None:
    lora = replace(LORA, embeddings_and_norms=more)
    optim = replace(SMOOTH, use_distributed_optimizer=sharded)
    engine = engine_of(build=BuildOptions(lora=lora, init_method_std=0.15), optim=optim)
    frozen = {
        name: weight.clone()
        for name, weight in engine.chunks[0].named_parameters()
        if not weight.requires_grad
    }
    engine.forward_backward(random_batch())
    engine.step()
    trained = num_trained(lora, SHAPE)
    buffers = engine.modules[0].buffers
    # Buffers are padded to what collectives like.
    assert trained <= sum(buffer.grad_data.numel() for buffer in buffers) < trained + 1024
    moments = [tensor for name, tensor in optimizer_tensors(engine.optimizer) if "exp_avg" in name]
    assert sum(tensor.numel() for tensor in moments) == 2 * trained
    now = dict(engine.chunks[0].named_parameters())
    for name, before in frozen.items():
        assert not hasattr(now[name], "main_grad") and now[name].grad is None, name
        assert torch.equal(now[name], before), name
    assert len(now) - len(frozen) == 2 * 4 * SHAPE.num_layers + (1 + 2 * SHAPE.num_layers + 1 if more else 0)


def test_first_numbers_do_not_depend_on_the_order_they_are_drawn_in() -> None:
    one, other = (engine_of(build=BuildOptions(lora=LORA), train=False) for _ in range(2))
    for (name, a), (_, b) in zip(
        one.chunks[0].named_parameters(), other.chunks[0].named_parameters(), strict=True
    ):
        assert "lora_A" not in name or (torch.equal(a, b) and a.std() > 0.01), name
        assert "lora_B" not in name or not a.any(), name


AGAIN = {
    "full": BuildOptions(recompute=FULL),
    "mlp": BuildOptions(recompute=Recompute("selective", modules=("mlp",))),
    "attention kept": BuildOptions(recompute=Recompute("selective", modules=(ALL_BUT_ATTENTION,))),
    "on disk": BuildOptions(recompute=replace(FULL, offload="disk", folder=gettempdir())),
    "tiled": BuildOptions(mlp_chunk_tokens=5),
    "tiled, attention kept": BuildOptions(
        recompute=Recompute("selective", modules=(ALL_BUT_ATTENTION,)), mlp_chunk_tokens=5
    ),
}


@pytest.mark.parametrize("attention", ["sdpa", "shifted"])
@pytest.mark.parametrize("name", AGAIN)
def test_whatever_is_computed_again_gives_adapters_the_same_gradients(name: str, attention: str) -> None:
    """The embedding is frozen: the first layer's input wants no gradient."""
    drops = replace(LORA, dropout=0.0 if "tiled" in name else 0.3)
    found = []
    for options in (BuildOptions(), AGAIN[name]):
        build = replace(
            options, lora=drops, init_method_std=0.15, backends=BackendRequests(attention=attention)
        )
        engine = engine_of(build=build, train=False)
        generator = torch.Generator().manual_seed(2)
        for parameter in engine.chunks[0].parameters():
            parameter.data.normal_(std=0.1, generator=generator)
        engine.start_training()
        engine.begin_step(1)
        loss = engine.forward_backward(random_batch())
        named = engine.chunks[0].named_parameters()
        found.append((loss, {n: p.main_grad.clone() for n, p in named if p.requires_grad}))
    (loss, plain), (same_loss, again) = found
    assert loss == pytest.approx(same_loss, rel=1e-6) and len(plain) == 16
    for key, gradient in plain.items():
        assert gradient.norm() > 0, key
        assert (again[key] - gradient).norm() < 1e-5 * gradient.norm(), key
