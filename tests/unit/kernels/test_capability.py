"""What a model's extension asks of its rotary kernel."""

from __future__ import annotations

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
    ("method", "tempered"), [("linear", False), ("llama3", False), ("yarn", True), ("longrope", True)]
)
def test_temperature_is_seen(method: str, tempered: bool) -> None:
    spec = make_spec(method, original_window=64, target_window=256, head_dim=16)
    assert rotary_needs(spec, torch.float32).tempered is tempered
