"""Models whose layers differ, extended, exported and read by transformers far beyond the target window.

Shape legend: B batch, S sequence, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from nemo_pi.checkpoint.hf.save import export_huggingface
from nemo_pi.checkpoint.summary import read_source_config, read_summary
from nemo_pi.config.extension import resolve_extension
from nemo_pi.config.schema import ModelConfig
from nemo_pi.families.shape import ModelShape
from nemo_pi.rope.spec import ContextExtension
from tests.unit.families.test_parity import TARGET, far_positions, scaled, variants
from tests.unit.model.models import (
    ExactRotary,
    causal_logits,
    forward,
    ours_from,
    random_tokens,
    transformers_model,
)

pytestmark = pytest.mark.usefixtures("one_rank")

ALL = {"pos_scaling_layers": "all"}
BASE = {"pos_scaling_type": "abf", "pos_scaling_extra_args": {"base": 8e6}}
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "smollm3, linear": ("smollm3", {}),
    "smollm3, yarn": ("smollm3", {"pos_scaling_type": "yarn"}),
    "ministral3, linear": ("ministral3", {}),
    "ministral3, yarn": ("ministral3", {"pos_scaling_type": "yarn"}),
    "ministral3, dynamic": ("ministral3", {"pos_scaling_type": "dynamic"}),
    "olmo3, yarn in full-attention layers": ("olmo3", {"pos_scaling_type": "yarn"}),
    "olmo3, linear in all": ("olmo3", ALL),
    "olmo3, a larger base": ("olmo3", BASE),
    "gemma3, linear in full-attention layers": ("gemma3_text", {}),
    "gemma3, dynamic in full-attention layers": ("gemma3_text", {"pos_scaling_type": "dynamic"}),
    "gemma3, ntk in all": ("gemma3_text", {"pos_scaling_type": "ntk", **ALL}),
}


@pytest.mark.parametrize("with_source", [True, False])
@pytest.mark.parametrize("name", ASKED)
def test_transformers_computes_what_was_extended(name: str, with_source: bool, tmp_path: Path) -> None:
    family, model = ASKED[name]
    settings = {**scaled(family, variants(family)["plain"], "none")}
    settings["max_position_embeddings"] = TARGET // 8
    transformers_model(family, **settings).save_pretrained(tmp_path / "in")
    summary = read_summary(tmp_path / "in")
    asked = ModelConfig(max_position_embeddings=TARGET, **model)
    extension, _ = resolve_extension(asked, summary.shape, summary)
    ours = ours_from(tmp_path / "in", extension, shape=summary.shape)
    source = read_source_config(tmp_path / "in") if with_source else None
    export_huggingface([ours], summary.shape, extension, tmp_path / "out", source_config=source)
    again = read_summary(tmp_path / "out")
    assert (again.shape, again.extension) == (summary.shape, extension)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager").eval()
    theirs.model.rotary_emb = ExactRotary(theirs.model.rotary_emb)
    tokens_BS = random_tokens(length=40)
    positions_BS = far_positions(*tokens_BS.shape)
    with torch.no_grad():
        ours_BSV = forward(ours, tokens_BS, positions_BS)
        theirs_BSV = causal_logits(theirs, tokens_BS, positions_BS)
        unscaled_BSV = forward(
            ours_from(tmp_path / "in", summary.extension, shape=summary.shape), tokens_BS, positions_BS
        )
    torch.testing.assert_close(ours_BSV, theirs_BSV, rtol=1e-4, atol=2e-4)
    assert (ours_BSV - unscaled_BSV).abs().max() > 0.05


def swapped(extension: ContextExtension) -> ContextExtension:
    """Each kind of layer is rotated as the other."""
    assert extension.sliding is not None
    return replace(extension.sliding, sliding=replace(extension, sliding=None))


FAULTS: dict[
    str, tuple[str, Callable[[ModelShape, ContextExtension], tuple[ModelShape, ContextExtension]]]
] = {
    "one base for both kinds": ("olmo3", lambda shape, spec: (shape, replace(spec, sliding=None))),
    "kinds swapped": ("gemma3_text", lambda shape, spec: (shape, swapped(spec))),
    "windows in the other layers": (
        "gemma3_text",
        lambda shape, spec: (replace(shape, full_attention_layers=(0,)), spec),
    ),
    "every layer rotated": ("smollm3", lambda shape, spec: (replace(shape, unrotated_layers=()), spec)),
    "another layer not rotated": (
        "smollm3",
        lambda shape, spec: (replace(shape, unrotated_layers=(0,)), spec),
    ),
    "queries that do not grow": ("ministral3", lambda shape, spec: (shape, replace(spec, query_scale=None))),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_logits_tell(fault: str, tmp_path: Path) -> None:
    family, plant = FAULTS[fault]
    transformers_model(family, **scaled(family, variants(family)["plain"], "none")).save_pretrained(tmp_path)
    summary = read_summary(tmp_path)
    tokens_BS = random_tokens(length=40)
    positions_BS = far_positions(*tokens_BS.shape)
    right, wrong = (
        ours_from(tmp_path, extension, shape=shape)
        for shape, extension in (
            (summary.shape, summary.extension),
            plant(summary.shape, summary.extension),
        )
    )
    with torch.no_grad():
        difference = forward(wrong, tokens_BS, positions_BS) - forward(right, tokens_BS, positions_BS)
    assert difference.abs().max() > 0.05
