"""As which class a model is exported, and that the class computes the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from nemo_pi.checkpoint.files import read_json
from nemo_pi.checkpoint.hf.save import export_huggingface
from nemo_pi.checkpoint.summary import read_source_config, read_summary
from nemo_pi.errors import CheckpointError, ConfigError
from nemo_pi.families import registry
from nemo_pi.families.export import export_form
from nemo_pi.families.llama import Llama
from nemo_pi.families.shape import ModelShape
from tests.unit.families.unshipped import saved_as
from tests.unit.model.models import (
    SHAPE,
    WINDOW,
    ExactRotary,
    causal_logits,
    forward,
    ours_from,
    random_tokens,
    transformers_model,
)
from tests.unit.rope.peers import make_spec

TARGET = 8 * WINDOW


def shape_of(family: str, **changes: Any) -> ModelShape:
    return replace(SHAPE, family=family, **changes)


def spec(method: str, **changes: Any) -> Any:
    return make_spec(method, original_window=WINDOW, target_window=TARGET, head_dim=16, **changes)


@pytest.mark.parametrize(
    ("shape", "method", "architecture", "taken", "why"),
    [
        (shape_of("llama"), "yarn", "auto", "LlamaForCausalLM", ""),
        (shape_of("baichuan"), "none", "auto", "LlamaForCausalLM", "transformers has no BaichuanForCausalLM"),
        (shape_of("baichuan"), "yarn", "auto", "LlamaForCausalLM", "the same function"),
        (shape_of("internlm2"), "linear", "auto", "LlamaForCausalLM", "no InternLM2ForCausalLM"),
        (shape_of("internlm2"), "linear", "InternLM2ForCausalLM", "InternLM2ForCausalLM", "as asked for"),
        (shape_of("phi3"), "yarn", "auto", "Phi3ForCausalLM", ""),
        (shape_of("phi3"), "dynamic", "auto", "LlamaForCausalLM", "cannot compute these positions"),
        (shape_of("phi3", sliding_window=8), "dynamic", "auto", "MistralForCausalLM", "cannot compute"),
        (shape_of("phi3"), "yarn", "LlamaForCausalLM", "LlamaForCausalLM", "as asked for"),
    ],
)
def test_choices(shape: ModelShape, method: str, architecture: str, taken: str, why: str) -> None:
    form = export_form(shape, spec(method), architecture)
    assert form.family.architecture == taken
    assert why in form.why and bool(why) == bool(form.why)
    assert taken in form.describe()


@pytest.mark.parametrize(
    ("shape", "method", "changes", "architecture", "message"),
    [
        (shape_of("baichuan"), "yarn", {}, "BaichuanForCausalLM", "rotates by the base 10000 alone"),
        (shape_of("internlm2"), "yarn", {}, "InternLM2ForCausalLM", "has no yarn scaling"),
        (shape_of("phi3"), "dynamic", {}, "Phi3ForCausalLM", "a divisor for each frequency"),
        (shape_of("phi3"), "dynamic", {"rotary_percent": 0.5}, "auto", "a divisor for each frequency"),
        (shape_of("phi3"), "yarn", {"rotary_percent": 0.5}, "LlamaForCausalLM", "rotates whole heads"),
    ],
)
def test_what_a_class_cannot_compute_is_refused(
    shape: ModelShape, method: str, changes: dict[str, Any], architecture: str, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        export_form(shape, spec(method, **changes), architecture)


def test_an_unknown_class_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"model\.export\.architecture.*LlamaForCausalLM") as caught:
        export_form(shape_of("internlm2"), spec("yarn"), "LlamaForCasualLM")
    assert caught.value.fix == "model.export.architecture=LlamaForCausalLM"
    with pytest.raises(
        ConfigError, match="computes what the model does: LlamaForCausalLM; given 'Qwen2ForCausalLM'"
    ):
        export_form(shape_of("llama"), spec("yarn"), "Qwen2ForCausalLM")


def exported(family: str, settings: dict[str, Any], method: str, folder: Path) -> tuple[Any, Any]:
    """Logits of our extended model, and of what transformers makes of its export."""
    transformers_model(family, **settings).save_pretrained(folder / "in")
    saved_as(folder / "in", family)
    summary = read_summary(folder / "in")
    percent = summary.extension.rotary_percent
    extension = replace(spec(method, rotary_percent=percent), interleaved=summary.extension.interleaved)
    model = ours_from(folder / "in", extension, shape=summary.shape)
    source = read_source_config(folder / "in")
    export_huggingface([model], summary.shape, extension, folder / "out", source_config=source)
    theirs = AutoModelForCausalLM.from_pretrained(folder / "out", attn_implementation="eager").eval()
    theirs.model.rotary_emb = ExactRotary(theirs.model.rotary_emb)
    assert read_summary(folder / "out").extension == extension
    tokens_BS = random_tokens(length=40)
    positions_BS = (torch.arange(40) * 100 * TARGET // 40).expand_as(tokens_BS)
    with torch.no_grad():
        return forward(model, tokens_BS, positions_BS), causal_logits(theirs, tokens_BS, positions_BS)


STARTS: dict[str, tuple[str, dict[str, Any]]] = {
    "phi3": ("phi3", {}),
    "phi3 in part": ("phi3", {"partial_rotary_factor": 0.75, "sliding_window": 9}),
    "baichuan": ("baichuan", {"num_key_value_heads": 4}),
    "internlm2": ("internlm2", {}),
    "glm4": ("glm4", {"partial_rotary_factor": 0.5}),
}


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("method", ["none", "linear", "ntk", "yarn", "llama3", "longrope", "dynamic"])
@pytest.mark.parametrize("start", STARTS)
def test_the_export_computes_the_same_far_beyond_the_window(start: str, method: str, tmp_path: Path) -> None:
    family, settings = STARTS[start]
    if (start, method) == ("phi3 in part", "dynamic"):
        pytest.skip("no class of transformers computes it")
    ours_BSV, theirs_BSV = exported(family, settings, method, tmp_path)
    # Phi-3's divisors make frequencies that may be one step of fp32 from ours: 1.2e-7 · 51,200 radians.
    close = 2e-2 if family == "phi3" and method in ("yarn", "llama3") else 3e-4
    torch.testing.assert_close(ours_BSV, theirs_BSV, rtol=1e-3, atol=close)


@pytest.mark.usefixtures("one_rank")
def test_what_the_source_says_besides_is_kept(tmp_path: Path) -> None:
    exported("baichuan", {"num_key_value_heads": 4}, "yarn", tmp_path)
    source, written = (read_json(tmp_path / name / "config.json") for name in ("in", "out"))
    assert written["model_type"], written["architectures"] == ("llama", ["LlamaForCausalLM"])
    assert "auto_map" not in written
    for key in (
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "use_cache",
        "initializer_range",
        "torch_dtype",
    ):
        assert written[key] == source[key]


class Acme(Llama):
    """Somebody's family: a Llama that transformers has no class for."""

    name, architecture, remote_code = "acme", "AcmeForCausalLM", True

    def same_function(self, shape: ModelShape) -> tuple[ModelShape, ...]:
        return (replace(shape, family="mistral"), replace(shape, family="llama"))


def test_a_family_of_a_package_names_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_FAMILIES", dict(registry._FAMILIES))
    registry.register(Acme())
    form = export_form(shape_of("acme"), spec("yarn"))
    assert form.describe() == "as MistralForCausalLM: the same function; transformers has no AcmeForCausalLM"
    assert export_form(shape_of("acme"), spec("yarn"), "LlamaForCausalLM").shape.family == "llama"
