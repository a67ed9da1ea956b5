"""The engine on one rank against a plain loop of transformers and torch."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_pi.data.collate import collate
from nemo_pi.data.indexed import open_indexed
from nemo_pi.data.packing import PackedDataset
from nemo_pi.data.position_ids import PlainPositions, PosePositions
from nemo_pi.data.samples import SampleDataset, SampleRules
from nemo_pi.engine.engine import MegatronEngine
from nemo_pi.engine.optimizer import AdamSettings
from nemo_pi.errors import DataError
from nemo_pi.model.build import BuildOptions
from nemo_pi.rope.pose_spec import PoseSpec
from nemo_pi.rope.spec import ContextExtension
from tests.unit.engine.loops import SMOOTH, PlainLoop, engine_of, random_batch, weights_of
from tests.unit.model.models import SHAPE, ours_from, transformers_model
from tests.unit.nemo.runs import write_tokens

pytestmark = pytest.mark.usefixtures("one_rank")

STEPS = 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Hugging Face folder with the plain loop's initial weights."""
    transformers_model().save_pretrained(tmp_path / "start")
    return tmp_path / "start"


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
@pytest.mark.parametrize(
    "changes",
    [{"use_distributed_optimizer": True}, {"clip_grad": 0.0}, {"clip_grad": 0.02}, {"weight_decay": 0.0}],
    ids=str,
)
def test_steps_equal_a_plain_loop(
    micro_batch_size: int, changes: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    """Losses, gradient norms and weights, however the global batch is cut into micro-batches."""
    settings: AdamSettings = replace(SMOOTH, **changes)
    loop = PlainLoop(transformers_model(), settings)
    engine = engine_of(folder, micro_batch_size=micro_batch_size, optim=settings)
    before = weights_of(engine)
    for step in range(STEPS):
        batch, lr = random_batch(seed=step), settings.lr / (step + 1)
        loss, norm = loop.step(batch, lr)
        engine.set_lr(lr)
        assert engine.forward_backward(batch) == pytest.approx(loss, rel=1e-5)
        assert engine.step() == pytest.approx(norm, rel=1e-4)

    loop.model.save_pretrained(tmp_path / "end")
    expected = dict(ours_from(tmp_path / "end").named_parameters())
    for name, weight in weights_of(engine).items():
        moved = (expected[name] - before[name]).norm()
        assert moved > 1e-4, name
        assert (weight - expected[name]).norm() < 1e-3 * moved, name


def test_default_settings_are_the_papers() -> None:
    """arXiv 2306.15595, section 3.1: AdamW with these two rates."""
    settings = AdamSettings()
    betas = (settings.adam_beta1, settings.adam_beta2)
    assert (betas, settings.weight_decay, settings.lr) == ((0.9, 0.95), 0.0, 2e-5)


def test_megatron_s_further_options_arrive() -> None:
    optim = replace(SMOOTH, megatron={"log_num_zeros_in_grad": True})
    engine = engine_of(optim=optim, ddp={"check_for_nan_in_grad": True})
    assert engine.optimizer.config.log_num_zeros_in_grad is True
    assert engine.modules[0].ddp_config.check_for_nan_in_grad is True


def test_evaluation_changes_nothing(folder: Path) -> None:
    engine = engine_of(folder, micro_batch_size=2)
    engine.forward_backward(random_batch())
    gradients = [p.main_grad.clone() for p in engine.chunks[0].parameters()]
    before = weights_of(engine)
    batch = random_batch(seed=5)
    with torch.no_grad():
        expected = PlainLoop(transformers_model()).loss(batch).item()
    assert engine.evaluate(batch) == pytest.approx(expected, rel=1e-5)
    assert all(torch.equal(before[name], weight) for name, weight in weights_of(engine).items())
    for parameter, gradient in zip(engine.chunks[0].parameters(), gradients, strict=True):
        assert torch.equal(parameter.main_grad, gradient)


def test_evaluation_needs_no_optimizer(folder: Path) -> None:
    batch = random_batch()
    trained = engine_of(folder).evaluate(batch)
    assert engine_of(folder, train=False).evaluate(batch) == trained


def test_each_step_starts_from_zero_gradients(folder: Path) -> None:
    engine, batch = engine_of(folder), random_batch()
    engine.forward_backward(batch)
    once = [p.main_grad.clone() for p in engine.chunks[0].parameters()]
    engine.forward_backward(batch)
    for parameter, gradient in zip(engine.chunks[0].parameters(), once, strict=True):
        assert torch.equal(parameter.main_grad, gradient)


def test_documents_of_a_row_do_not_see_each_other(folder: Path) -> None:
    """A packed row's loss is the token-weighted mean of its documents' own."""
    engine = engine_of(folder)
    packed = random_batch(rows=1, length=16)
    packed["cu_seqlens"][0, :3] = torch.tensor([0, 5, 16])
    packed["position_ids"] = torch.cat([torch.arange(5), torch.arange(11)])[None]
    packed["loss_mask"] = torch.ones(1, 16)
    alone = []
    for a, b in ((0, 5), (5, 16)):
        keys = ("tokens", "labels", "position_ids", "loss_mask")
        alone.append((b - a) * engine.evaluate({key: packed[key][:, a:b] for key in keys}))
    assert engine.evaluate(packed) == pytest.approx(sum(alone) / 16, rel=1e-6)
    packed["cu_seqlens"][0, :3] = torch.tensor([0, 16, 16])
    assert engine.evaluate(packed) != pytest.approx(sum(alone) / 16, rel=1e-3)


def rows_of(dataset: Any, count: int) -> dict[str, torch.Tensor]:
    return collate([dataset.sample(i) for i in range(count)])


def gradients_of(engine: MegatronEngine) -> dict[str, torch.Tensor]:
    return {name: weight.main_grad.clone() for name, weight in engine.chunks[0].named_parameters()}


@pytest.mark.parametrize("skipping", [False, True])
def test_packed_documents_train_as_the_same_documents_alone(
    folder: Path, tmp_path: Path, skipping: bool
) -> None:
    """Loss and gradients of rows with padding, and of each document in a row of its own."""
    spec = PoseSpec(200, "contiguous", 2, "zero")
    rules = SampleRules(PosePositions(spec, reset=True) if skipping else PlainPositions(reset=True))
    write_tokens(tmp_path / "tokens", documents=6)
    indexed = open_indexed(tmp_path / "tokens")
    packed = rows_of(PackedDataset(indexed, (0, 6), seq_length=64, key=(1,), rules=rules), 3)
    assert not packed["loss_mask"].all(), "there is padding"
    engine = engine_of(folder)
    loss = engine.forward_backward(packed)
    together = gradients_of(engine)

    total, tokens = 0.0, 0
    apart = {name: torch.zeros_like(value) for name, value in together.items()}
    for row in range(3):
        for a, b in pairwise(packed["cu_seqlens"][row].unique().tolist()):
            if packed["loss_mask"][row, a]:
                keys = ("tokens", "labels", "loss_mask", "position_ids")
                total += (b - a) * engine.forward_backward(
                    {key: packed[key][row : row + 1, a:b] for key in keys}
                )
                tokens += b - a
                for name, value in gradients_of(engine).items():
                    apart[name] += (b - a) * value
    assert tokens == packed["loss_mask"].sum()
    assert loss == pytest.approx(total / tokens, rel=1e-6)
    for name, value in together.items():
        torch.testing.assert_close(
            value, apart[name] / tokens, rtol=1e-4, atol=1e-6 * float(value.abs().max())
        )


def test_skipping_samples_train_as_in_transformers(folder: Path, tmp_path: Path) -> None:
    """Whole rows under a causal mask: attention crosses chunks whose text and positions are far apart."""
    spec = PoseSpec(500, "paper", 3, "aligned")
    write_tokens(tmp_path / "tokens", documents=20)
    rules = SampleRules(PosePositions(spec), moved_text=spec)
    dataset = SampleDataset(open_indexed(tmp_path / "tokens"), (0, 20), seq_length=32, key=(1,), rules=rules)
    batch = rows_of(dataset, 4)
    assert (batch["position_ids"][:, -1] > 31).all()
    loop, engine = PlainLoop(transformers_model(max_position_embeddings=500)), engine_of(folder)
    loss, norm = loop.step(batch, 0.0)
    engine.set_lr(0.0)
    assert engine.forward_backward(batch) == pytest.approx(loss, rel=1e-5)
    assert engine.step() == pytest.approx(norm, rel=1e-4)


def test_frequencies_of_a_given_length(folder: Path) -> None:
    """Dynamic NTK at the target's length, wherever positions end: that base, as transformers has it."""
    window, target = 64, 256
    extension = ContextExtension.build(
        original_window=window, target_window=target, method="dynamic", head_dim=SHAPE.head_dim
    )
    batch = random_batch()
    batch["position_ids"][:, 9:] += 120
    growth = (target / window * target / window - (target / window - 1)) ** (
        SHAPE.head_dim / (SHAPE.head_dim - 2)
    )
    rope = {"rope_type": "default", "rope_theta": 10000.0 * growth}
    with torch.no_grad():
        expected = PlainLoop(transformers_model(rope_parameters=rope)).loss(batch).item()
    given = engine_of(folder, train=False, extension=extension, rotary_length=target).evaluate(batch)
    assert given == pytest.approx(expected, rel=1e-5)
    assert engine_of(folder, train=False, extension=extension).evaluate(batch) != pytest.approx(
        given, rel=1e-3
    )


@pytest.mark.parametrize("key", ["tokens", "labels"])
def test_ids_outside_the_vocabulary_stop_the_step(key: str) -> None:
    engine, batch = engine_of(), random_batch()
    batch[key][2, 2] = -100
    with pytest.raises(DataError, match=key):
        engine.forward_backward(batch)


def test_a_batch_with_nothing_to_score_has_no_loss() -> None:
    batch = random_batch()
    batch["loss_mask"].zero_()
    assert engine_of().forward_backward(batch) == 0.0


def test_bf16_weights_have_fp32_main_copies(folder: Path) -> None:
    """Steps too small for bf16 are kept: ten of 2e-5 move a weight of 0.1 that bf16 moves by 4e-4 or not."""
    tiny = replace(SMOOTH, lr=2e-5, adam_eps=1e-8, weight_decay=0.0)
    low = engine_of(folder, optim=tiny, build=BuildOptions(params_dtype=torch.bfloat16))
    full = engine_of(folder, optim=tiny)
    before = weights_of(full)
    batch = random_batch()
    for engine in (low, full):
        losses = []
        for _ in range(10):
            engine.set_lr(tiny.lr)
            losses.append(engine.forward_backward(batch))
            engine.step()
        assert losses[0] == pytest.approx(PlainLoop(transformers_model()).loss(batch).item(), rel=0.02)
    main = {name: parameter.main_param for name, parameter in low.chunks[0].named_parameters()}
    assert {parameter.dtype for parameter in main.values()} == {torch.float32}
    name = "decoder.layers.0.mlp.linear_fc1.weight"
    moved, expected = main[name] - before[name].bfloat16(), weights_of(full)[name] - before[name]
    assert torch.nn.functional.cosine_similarity(moved.flatten(), expected.flatten(), dim=0) > 0.9
