"""Rotary embeddings by kind of layer: written and read, with transformers as the reader."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import Gemma3TextConfig
from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding

from nemo_pi.errors import ConfigError
from nemo_pi.rope.hf import from_hf, to_hf
from nemo_pi.rope.hf_kinds import FULL, SLIDING
from nemo_pi.rope.query_scale import QueryScale
from nemo_pi.rope.spec import ContextExtension
from nemo_pi.rope.tables import rotary_cos_sin, same_frequencies
from tests.unit.rope.peers import METHODS, make_spec

LOCAL = ContextExtension.unscaled(512, 64, base=1234.0)


def with_local(method: str, sliding: ContextExtension = LOCAL) -> ContextExtension:
    return replace(make_spec(method), sliding=sliding)


@pytest.mark.parametrize("method", METHODS)
def test_files_bring_back_the_spec(method: str) -> None:
    for spec in (with_local(method), with_local(method, replace(make_spec(method), base=4321.0))):
        assert ContextExtension.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
        entries = json.loads(json.dumps(to_hf(spec)))
        assert from_hf(entries, 64, entries["rope_parameters"]) == spec


def test_a_spec_without_kinds_is_written_as_before() -> None:
    assert not {"sliding", "query_scale"} & set(make_spec("yarn").to_dict())


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_transformers_reads_both_kinds(method: str, both: bool) -> None:
    """Tables of either kind, from inside the window to far beyond."""
    spec = with_local(method, replace(make_spec(method), base=4321.0) if both else LOCAL)
    config = Gemma3TextConfig(
        **json.loads(json.dumps(to_hf(spec))), head_dim=64, num_hidden_layers=2, layer_types=[FULL, SLIDING]
    )
    reader = Gemma3RotaryEmbedding(config)
    for length in (100, 512, 513, 10_000):
        positions = torch.tensor([[0, 1, 50, length - 1]])
        for kind, name in zip(spec.kinds, (FULL, SLIDING), strict=True):
            theirs = reader(torch.zeros(1), positions, name)
            for ours_BSF, theirs_BSD in zip(rotary_cos_sin(kind, positions), theirs, strict=True):
                tolerance = length * (2e-6 if method == "dynamic" else 2.0**-22) + 1e-6
                torch.testing.assert_close(ours_BSF, theirs_BSD[..., :32], rtol=0.0, atol=tolerance)


def test_plain_layers_have_the_models_windows() -> None:
    spec = with_local("linear")
    assert spec.sliding is not None
    windows = (spec.original_window, spec.target_window)
    assert (spec.sliding.original_window, spec.sliding.target_window) == windows


def test_either_kind_makes_it_scaled_and_dependent_on_length() -> None:
    plain = make_spec("none", original_window=512, target_window=4096)
    dynamic = make_spec("dynamic", original_window=512, target_window=4096)
    for spec in (replace(plain, sliding=dynamic), replace(dynamic, sliding=plain)):
        assert spec.is_scaled and spec.depends_on_length
        assert same_frequencies(spec, 100, 512) and not same_frequencies(spec, 512, 513)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rotary_percent": 0.5}, "rotary_percent: required 1.0 in layers with"),
        ({"head_dim": 128}, "head_dim: required 64 in layers with"),
        ({"sliding": LOCAL}, "sliding: required rotary embeddings alone"),
        ({"query_scale": QueryScale(0.1, 64)}, "sliding: required rotary embeddings alone"),
    ],
    ids=str,
)
def test_layers_of_other_heads_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_local("linear", replace(LOCAL, **changes))


def test_two_windows_have_no_words_in_transformers() -> None:
    """Dynamic NTK writes the original window there, all others the target."""
    with pytest.raises(ConfigError, match="target_window"):
        to_hf(with_local("linear", make_spec("dynamic")))


def test_a_window_of_queries_that_yarn_cannot_share_is_refused() -> None:
    spec = replace(make_spec("yarn"), query_scale=QueryScale(0.1, 100))
    with pytest.raises(ConfigError, match="original_window"):
        to_hf(spec)
