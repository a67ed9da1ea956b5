"""What a model's extension asks of its rotary kernel."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nemo_pi.kernels.capability import RotaryNeeds, rotary_needs
from nemo_pi.rope.spec import ContextExtension
from tests.unit.rope.peers import make_spec

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def test_needs_follow_the_extension() -> None:
    spec = ContextExtension.unscaled(64, 20)
    assert rotary_needs(spec, torch.bfloat16) == RotaryNeeds(20, 20, False, DEVICE, torch.bfloat16, False)


@pytest.mark.parametrize(
    ("method", "has_attention_factor"),
    [("linear", False), ("llama3", False), ("yarn", True), ("longrope", True)],
)
def test_the_attention_factor_is_seen(method: str, has_attention_factor: bool) -> None:
    spec = make_spec(method, original_window=64, target_window=256, head_dim=16)
    assert rotary_needs(spec, torch.float32).has_attention_factor is has_attention_factor


def test_the_attention_factor_of_any_kind_of_layer_is_seen() -> None:
    yarn = make_spec("yarn", original_window=64, target_window=256, head_dim=16)
    plain = ContextExtension.unscaled(64, 16)
    for spec in (replace(plain, sliding=yarn), replace(yarn, sliding=plain)):
        assert rotary_needs(spec, torch.float32).has_attention_factor
