"""The weights a run starts from, by kind of checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.engine.engine import MegatronEngine
from nemo_pi.engine.state import save_engine
from nemo_pi.engine.weights import load_checkpoint_weights
from tests.unit.config.builders import changed
from tests.unit.engine.loops import engine_of, weights_of
from tests.unit.model.models import SHAPE, forward, ours_from, plain, random_tokens
from tests.unit.nemo.runs import resolved

pytestmark = pytest.mark.usefixtures("one_rank")


def started(run: ResolvedRun) -> MegatronEngine:
    engine = MegatronEngine(run.engine)
    load_checkpoint_weights(engine, run.checkpoint)
    return engine


def test_a_hugging_face_folder(inputs: Path, tmp_path: Path) -> None:
    expected = dict(ours_from(inputs / "start").named_parameters())
    for name, weight in weights_of(started(resolved(inputs, tmp_path))).items():
        assert torch.equal(weight, expected[name]), name


def test_a_hugging_face_folder_into_the_interleaved_layout(inputs: Path, tmp_path: Path) -> None:
    """Heads are stored as halves there; the same function needs their channels in another order."""
    run = changed(resolved(inputs, tmp_path), extension=plain(interleaved=True))
    logits_BSV = forward(started(run).chunks[0], random_tokens())
    expected_BSV = forward(ours_from(inputs / "start"), random_tokens())
    torch.testing.assert_close(logits_BSV, expected_BSV, rtol=1e-4, atol=1e-4)


def test_a_distributed_checkpoint(inputs: Path, tmp_path: Path) -> None:
    engine = engine_of()
    meta = {
        "shape": SHAPE.to_dict(),
        "extension": plain().to_dict(),
        "global_step": 9,
        "consumed_samples": 36,
    }
    save_engine(engine, tmp_path / "saved", meta)
    found = started(resolved(inputs, tmp_path, restore_from_path=str(tmp_path / "saved")))
    kept = weights_of(engine)
    assert all(torch.equal(kept[name], weight) for name, weight in weights_of(found).items())


def test_none_keeps_random_weights(inputs: Path, tmp_path: Path) -> None:
    shape = {
        "restore_from_path": None,
        "model__original_max_position_embeddings": 64,
        "model__num_layers": 1,
        "model__hidden_size": 32,
        "model__ffn_hidden_size": 48,
        "model__num_attention_heads": 2,
        "model__vocab_size": SHAPE.vocab_size,
    }
    run = resolved(inputs, tmp_path / "logs", **shape)
    engine = MegatronEngine(run.engine)
    before = weights_of(engine)
    load_checkpoint_weights(engine, run.checkpoint)
    assert all(torch.equal(before[name], weight) for name, weight in weights_of(engine).items())
