"""The YAML of what was found, read again."""

from __future__ import annotations

import yaml

from nemo_pi.rope.spec import ContextExtension
from nemo_pi.search.lines import yaml_lines


def test_the_lines_make_the_same_extension() -> None:
    lists = {"short_factor": [1.0] * 4, "long_factor": [1.0, 1.27, 3.0, 9.0]}
    spec = ContextExtension.build(
        original_window=64, target_window=512, method="longrope", head_dim=8, extra_args=lists
    )
    text = yaml_lines(spec, ("found", "so"), rescales=False)
    assert text.splitlines()[:3] == ["# @package model", "# found", "# so"]
    assert yaml.safe_load(text) == {
        "max_position_embeddings": 512,
        "pos_scaling_factor": None,
        "pos_scaling_type": "longrope",
        "pos_scaling_extra_args": lists,
    }


def test_a_checkpoint_that_was_scaled_before_is_allowed_to_be_scaled_anew() -> None:
    lists = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    spec = ContextExtension.build(
        original_window=64, target_window=512, method="longrope", head_dim=8, extra_args=lists
    )
    assert yaml.safe_load(yaml_lines(spec, (), rescales=True))["allow_rescaling"] is True
