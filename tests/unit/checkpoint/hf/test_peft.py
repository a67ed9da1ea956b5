"""Adapters as `peft` loads them, and merged: the same logits, however families store weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from nemo_pi.checkpoint.hf.peft import CONFIG, WEIGHTS, check_peft_export, export_peft
from nemo_pi.checkpoint.hf.save import export_huggingface
from nemo_pi.checkpoint.summary import read_source_config, read_summary
from nemo_pi.errors import CheckpointError
from nemo_pi.families.lora import CANONICAL, LINEARS, NEMO, Lora
from nemo_pi.model.gpt import RotaryGPTModel
from nemo_pi.model.options import BuildOptions
from nemo_pi.rope.spec import ContextExtension
from tests.unit.model.models import (
    WINDOW,
    causal_logits,
    forward,
    ours_from,
    random_tokens,
    transformers_model,
)

pytestmark = pytest.mark.usefixtures("one_rank")

TOKENS = random_tokens(length=WINDOW + 20)
LORA = Lora(dim=4, alpha=6.0, linears=LINEARS, embeddings_and_norms=True)
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama tied": {"tie_word_embeddings": True},
    "qwen2": {},
    "phi3": {},
    "gpt_neox": {"partial_rotary_factor": 0.5},
    "phi": {"partial_rotary_factor": 0.5},
    "stablelm": {"partial_rotary_factor": 0.5},
    "olmo2": {},
    "granite": {"embedding_multiplier": 6.0, "logits_scaling": 0.5},
    "glm4": {"partial_rotary_factor": 0.5},
}


def adapted(folder: Path, lora: Lora, name: str = "llama") -> tuple[RotaryGPTModel, ContextExtension]:
    """Our model of a folder at four times its window, everything that is trained at other numbers."""
    transformers_model(name.split()[0], **FAMILIES.get(name, {})).save_pretrained(folder)
    summary = read_summary(folder)
    extension = ContextExtension.build(
        method="longrope" if name == "phi3" else "linear",
        original_window=WINDOW,
        target_window=4 * WINDOW,
        head_dim=summary.extension.head_dim,
        base=summary.extension.base,
        rotary_percent=summary.extension.rotary_percent,
        interleaved=summary.extension.interleaved,
        **({"extra_args": {"short_factor": [1.0] * 8, "long_factor": [3.0] * 8}} if name == "phi3" else {}),
    )
    model = ours_from(folder, extension, shape=summary.shape, options=BuildOptions(lora=lora))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return model, extension


def by_peft(base: Path, folder: Path) -> Tensor:
    """What a user of `peft` gets, by the calls of docs/adapters.md."""
    model = AutoModelForCausalLM.from_pretrained(base, config=AutoConfig.from_pretrained(folder))
    return causal_logits(PeftModel.from_pretrained(model, str(folder)).eval(), TOKENS)


@torch.no_grad()
@pytest.mark.parametrize("variant", [NEMO, CANONICAL])
@pytest.mark.parametrize("name", FAMILIES)
def test_peft_s_folder_and_the_merged_one_compute_the_same(name: str, variant: str, tmp_path: Path) -> None:
    lora = replace(LORA, variant=variant)
    model, extension = adapted(tmp_path / "base", lora, name)
    shape, source = read_summary(tmp_path / "base").shape, read_source_config(tmp_path / "base")
    expected = forward(model, TOKENS)
    export_huggingface([model], shape, extension, tmp_path / "merged", source_config=source)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert (causal_logits(merged, TOKENS) - expected).abs().max() < 2e-4 * expected.abs().max()
    folder = export_peft(
        [model],
        shape,
        extension,
        tmp_path / "adapters",
        lora=lora,
        base_path=tmp_path / "base",
        source_config=source,
    )
    assert (by_peft(tmp_path / "base", folder) - expected).abs().max() < 2e-4 * expected.abs().max()


def test_files_hold_what_they_should(tmp_path: Path) -> None:
    lora = replace(LORA, embeddings_and_norms=False, linears=LINEARS[:1])
    model, extension = adapted(tmp_path / "base", lora)
    source = read_source_config(tmp_path / "base")
    shape = read_summary(tmp_path / "base").shape
    export_peft(
        [model], shape, extension, tmp_path / "out", lora=lora, base_path=Path("/base"), source_config=source
    )
    config = json.loads((tmp_path / "out" / CONFIG).read_text())
    assert (config["r"], config["lora_alpha"], config["modules_to_save"]) == (4, 6, None)
    assert config["target_modules"] == ["k_proj", "q_proj", "v_proj"]
    assert config["base_model_name_or_path"] == "/base"
    tensors = load_file(tmp_path / "out" / WEIGHTS)
    layer = "base_model.model.model.layers.0.self_attn."
    assert len(tensors) == 2 * 3 * shape.num_layers
    # NeMo's one matrix, which all three read.
    first, *others = (tensors[f"{layer}{letter}_proj.lora_A.weight"] for letter in "qkv")
    assert first.shape == (4, 64) and all(torch.equal(first, other) for other in others)
    assert tensors[f"{layer}k_proj.lora_B.weight"].shape == (32, 4)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["rope_scaling"]["factor"] == 4.0


def test_positions_that_the_base_s_class_cannot_compute(tmp_path: Path) -> None:
    """transformers' GPT-J ignores any scaling: merged weights leave as a Phi, adapters cannot."""
    transformers_model("gptj", rotary_dim=8).save_pretrained(tmp_path / "base")
    summary = read_summary(tmp_path / "base")
    scaled = replace(summary.extension, method="linear", factor=4.0, target_window=4 * WINDOW)
    with pytest.raises(CheckpointError, match="hf_path=FOLDER"):
        check_peft_export(summary.shape, scaled)
    check_peft_export(summary.shape, summary.extension)
