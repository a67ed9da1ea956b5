"""CONTRIBUTING's recipe "Add a family", followed to the letter in a package of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from nemo_pi.checkpoint.files import read_json, write_json
from nemo_pi.checkpoint.hf.save import export_huggingface
from nemo_pi.checkpoint.hf.source import HuggingFaceSource
from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.config.schema import ModelConfig
from nemo_pi.config.shapes import resolve_shape
from nemo_pi.errors import CheckpointError
from nemo_pi.families import registry
from tests.integration.doors.test_method import code_in
from tests.plug_ins import install
from tests.unit.checkpoint.models import assert_same_bits, stored_tensors
from tests.unit.model.models import (
    SHAPE,
    causal_logits,
    forward,
    ours_from,
    random_tokens,
    transformers_model,
)

pytestmark = pytest.mark.usefixtures("one_rank")


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The recipe's family, registered by a package; its name."""
    source = code_in("CONTRIBUTING.md", "### Add a family")
    return add(tmp_path / "package", monkeypatch, source)


def add(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> str:
    monkeypatch.setattr(registry, "_FAMILIES", dict(registry._FAMILIES))
    entries = {"acme": "Acme"}
    install(folder, monkeypatch, "acme", source, registry.PLUG_INS, entries)
    return "acme"


def written(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> Path:
    """A Llama's tensors and config.json as the recipe's family spells them."""
    fused = {
        name: tensor
        for name, tensor in tensors.items()
        if not name.endswith(("gate_proj.weight", "up_proj.weight"))
    }
    for layer in range(SHAPE.num_layers):
        mlp = f"model.layers.{layer}.mlp."
        parts = [tensors[f"{mlp}{part}_proj.weight"] for part in ("gate", "up")]
        fused[f"{mlp}gate_up_proj.weight"] = torch.cat(parts)
    folder.mkdir()
    save_file(fused, folder / "model.safetensors", metadata={"format": "pt"})
    spelled = {"n_layer": config.pop("num_hidden_layers"), **config}
    write_json(
        folder / "config.json", {**spelled, "model_type": "acme", "architectures": ["AcmeForCausalLM"]}
    )
    return folder


@pytest.mark.parametrize("with_source", [True, False])
def test_the_recipe_is_read_run_and_exported(recipe: str, with_source: bool, tmp_path: Path) -> None:
    llama = transformers_model()
    llama.save_pretrained(tmp_path / "llama")
    tensors, config = stored_tensors(tmp_path / "llama"), read_json(tmp_path / "llama" / "config.json")
    folder = written(tmp_path / "acme", tensors, config)
    summary = read_summary(folder)
    assert (summary.shape.family, summary.shape.num_layers) == (recipe, SHAPE.num_layers)
    model, tokens_BS = ours_from(folder, summary.extension, shape=summary.shape), random_tokens()
    with torch.no_grad():
        torch.testing.assert_close(
            forward(model, tokens_BS), causal_logits(llama, tokens_BS), rtol=1e-4, atol=1e-4
        )
    source = HuggingFaceSource.read(folder).to_dict() if with_source else None
    export_huggingface([model], summary.shape, summary.extension, tmp_path / "out", source_config=source)
    assert_same_bits(stored_tensors(tmp_path / "out"), stored_tensors(folder))
    assert read_summary(tmp_path / "out").shape == summary.shape
    if with_source:
        assert read_json(tmp_path / "out" / "config.json") == read_json(folder / "config.json")


def test_it_is_built_from_a_yaml_alone(recipe: str) -> None:
    sizes = {"num_layers": 2, "hidden_size": 64, "ffn_hidden_size": 80, "num_attention_heads": 4}
    shape = resolve_shape(ModelConfig(**sizes, vocab_size=96, family=recipe), None)
    assert shape.family == recipe
    assert registry.family_of(shape).megatron_options(shape)["num_layers"] == 2


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("class Acme: pass", "a subclass of Family whose name is 'acme'"),
        ("import nothing_of_this_name", "ModuleNotFoundError"),
        ("from nemo_pi.families.llama import Llama as Acme", "a subclass of Family whose name is 'acme'"),
    ],
)
def test_a_broken_package_is_named(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(tmp_path, monkeypatch, source)
    assert "acme" in registry.names()
    with pytest.raises(CheckpointError, match=message) as caught:
        registry.family_of_config({"model_type": "acme"})
    assert "uninstall acme" in caught.value.fix


def test_without_the_package_the_name_is_unknown() -> None:
    with pytest.raises(CheckpointError, match=r"one of llama, .*; given 'acme'"):
        registry.family_of_config({"model_type": "acme"})
