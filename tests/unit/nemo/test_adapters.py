"""A run that trains adapters: what it saves, from what it goes on, and both of its exports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.engine.opening import open_engine
from nemo_pi.nemo.run import run
from nemo_pi.parallel.layout import ParallelLayout
from tests.unit.model.models import causal_logits, forward, random_tokens
from tests.unit.nemo.runs import configuration

ADAPTERS = {
    "peft_scheme": "lora",
    "lora_tuning": {"adapter_dim": 4, "alpha": 8, "target_modules": ["all"]},
    "train_embeddings_and_norms": True,
}
TOKENS = random_tokens(length=80)  # beyond the original window


def trained(inputs: Path, folder: Path, **changes: Any) -> Path:
    """Runs to its end in `folder`, with both exports; its last checkpoint."""
    settings = {
        "model__peft": ADAPTERS,
        "model__export__hf_path": str(folder / "merged"),
        "model__export__peft_path": str(folder / "adapters"),
        **changes,
    }
    result = run(configuration(inputs, folder / "logs", **settings))
    assert result is not None
    return sorted(result.folders.checkpoints.glob("step_*"))[-1]


def peft_logits(base: Path, adapters: Path) -> Tensor:
    """As docs/adapters.md tells a user of `peft`."""
    config = AutoConfig.from_pretrained(adapters)
    model = AutoModelForCausalLM.from_pretrained(base, config=config)
    return causal_logits(PeftModel.from_pretrained(model, str(adapters)).eval(), TOKENS)


def test_exports_and_checkpoint_compute_the_same(inputs: Path, tmp_path: Path) -> None:
    checkpoint = trained(inputs, tmp_path)
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
        expected = causal_logits(merged, TOKENS)
        assert (peft_logits(inputs / "start", tmp_path / "adapters") - expected).abs().max() < 1e-4
        engine = open_engine(read_summary(checkpoint), ParallelLayout())
        assert (forward(engine.chunks[0].eval(), TOKENS) - expected).abs().max() < 1e-4
        start = AutoModelForCausalLM.from_pretrained(inputs / "start").eval()
        assert (causal_logits(start, TOKENS) - expected).abs().max() > 1e-2
