"""Our model opened so that only what is being computed is in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.families.registry import family_of
from nemo_pi.model.options import BuildOptions
from nemo_pi.parallel import groups
from nemo_pi.parallel.layout import ParallelLayout
from nemo_pi.verification.opening import OpenedModel, fits_in_memory
from tests.unit.model.models import forward, ours_from, random_tokens
from tests.unit.verification.folders import folder_of


@pytest.fixture(autouse=True)
def no_world_is_left() -> Iterator[None]:
    yield
    groups.destroy()


def opened(folder: Path, *, keep: bool) -> OpenedModel:
    return OpenedModel(read_summary(folder), ParallelLayout(), BuildOptions(), keep=keep)


def held(model: OpenedModel) -> int:
    """Numbers of all weights that have storage now."""
    weights = (weight for chunk in model.engine.chunks for weight in chunk.parameters())
    return sum(weight.numel() for weight in weights if not weight.is_meta)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("keep", [True, False])
def test_it_computes_what_a_loaded_model_computes(keep: bool, tied: bool, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model", "qwen3", tie_word_embeddings=tied)
    model = opened(folder, keep=keep)
    tokens_BS = random_tokens()
    with torch.no_grad():
        streamed = forward(model.engine.chunks[0].eval(), tokens_BS)
        again = forward(model.engine.chunks[0], tokens_BS)
        summary = read_summary(folder)
        loaded = forward(ours_from(folder, summary.extension, shape=summary.shape), tokens_BS)
    assert torch.equal(streamed, loaded) and torch.equal(again, loaded)
    assert not model.unlike


def test_one_layer_is_held_at_a_time(tmp_path: Path) -> None:
    """However deep the model: no pass ever holds more than a layer, or the output layer."""
    folder = folder_of(tmp_path / "model", num_hidden_layers=12)
    model, shape = opened(folder, keep=False), read_summary(folder).shape
    most: list[int] = []
    for layer in model.engine.chunks[0].decoder.layers:
        layer.self_attention.register_forward_hook(lambda *_: most.append(held(model)))
    model.engine.chunks[0].output_layer.register_forward_pre_hook(lambda *_: most.append(held(model)))
    with torch.no_grad():
        forward(model.engine.chunks[0].eval(), random_tokens())
    family, vocabulary = family_of(shape), shape.vocab_size * shape.hidden_size
    assert len(most) == 13
    assert max(most) == max(family.layer_parameters(shape), vocabulary)
    assert held(model) == 0


def test_a_kept_model_is_whole_after_one_pass(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model")
    model, shape = opened(folder, keep=True), read_summary(folder).shape
    with torch.no_grad():
        forward(model.engine.chunks[0].eval(), random_tokens())
    assert held(model) == family_of(shape).num_parameters(shape)


def test_a_weight_that_would_not_go_back_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nemo_pi.verification import opening

    unfuse = opening.unfuse
    monkeypatch.setattr(opening, "unfuse", lambda *args: tuple(part + 1 for part in unfuse(*args)))
    model = opened(folder_of(tmp_path / "model"), keep=False)
    with torch.no_grad():
        forward(model.engine.chunks[0].eval(), random_tokens())
    assert "model.layers.0.self_attn.q_proj.weight" in model.unlike


def test_whether_it_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    summary = read_summary(folder_of(tmp_path / "model"))
    needed = 4 * family_of(summary.shape).num_parameters(summary.shape)
    memory = SimpleNamespace(available=2 * needed + 1)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    assert fits_in_memory(summary, torch.float32)
    assert not fits_in_memory(summary, torch.float32, copies=2)
    assert fits_in_memory(summary, torch.bfloat16, copies=2)
