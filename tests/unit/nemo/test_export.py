"""An engine's weights as a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.engine.engine import MegatronEngine
from nemo_pi.engine.weights import load_checkpoint_weights
from nemo_pi.nemo.export import export_engine
from tests.unit.nemo.runs import resolved

pytestmark = pytest.mark.usefixtures("one_rank")


def test_import_and_export_give_the_same_bits_and_the_new_window(inputs: Path, tmp_path: Path) -> None:
    run = resolved(inputs, tmp_path)
    engine = MegatronEngine(run.engine)
    load_checkpoint_weights(engine, run.checkpoint)
    folder = export_engine(engine, run, tmp_path / "exported")
    before = load_file(inputs / "start" / "model.safetensors")
    after = load_file(folder / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert read_summary(folder).extension == run.extension


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_dtype_is_the_yamls(dtype: str, inputs: Path, tmp_path: Path) -> None:
    path = tmp_path / "exported"
    run = resolved(inputs, tmp_path, model__export__hf_path=str(path), model__export__dtype=dtype)
    engine = MegatronEngine(run.engine)
    load_checkpoint_weights(engine, run.checkpoint)  # memory as it is may hold more than float16 can
    assert export_engine(engine, run, path) == path
    assert {tensor.dtype for tensor in load_file(path / "model.safetensors").values()} == {
        getattr(torch, dtype)
    }
