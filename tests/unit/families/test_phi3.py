"""Phi-3's way to spell LongRoPE, and scalings of other methods in its words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import Phi3Config
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from nemo_pi.checkpoint.hf.config import window_source
from nemo_pi.errors import CheckpointError
from nemo_pi.families.export import export_form
from nemo_pi.families.registry import family_named
from nemo_pi.rope.hf import OTHER_WINDOWS, RECORD
from nemo_pi.rope.spec import ContextExtension
from nemo_pi.rope.tables import attention_factor, inverse_frequencies
from tests.unit.families.test_published import PHI_128K, longrope_lists
from tests.unit.families.test_qwen2 import SIZES
from tests.unit.rope.peers import make_spec

PHI = family_named("phi3")
SHAPE = PHI.read_shape(SIZES)


def read(entries: dict[str, Any]) -> ContextExtension:
    return PHI.read_extension({**SIZES, **entries}, SHAPE)


@pytest.mark.parametrize("older", ["su", "yarn"])
def test_older_names_of_longrope(older: str) -> None:
    """Of which transformers 5.23 says the same, but fails on them in a file with rope_scaling."""
    spelled, published = (
        read({**PHI_128K, "rope_scaling": {**longrope_lists(8), "type": name}})
        for name in (older, "longrope")
    )
    assert spelled == published
    assert (spelled.method, spelled.original_window, spelled.target_window) == ("longrope", 4096, 131072)


def test_windows_have_defaults() -> None:
    scaling = {"rope_scaling": {**longrope_lists(8), "type": "longrope"}}
    extension = PHI.read_extension({**scaling, "max_position_embeddings": 8192}, SHAPE)
    theirs = Phi3Config(hidden_size=64, num_attention_heads=4, max_position_embeddings=8192, **scaling)
    assert extension.original_window == theirs.original_max_position_embeddings == 4096
    assert PHI.read_extension({}, SHAPE).target_window == Phi3Config().max_position_embeddings


@pytest.mark.parametrize("method", ["linear", "yarn", "llama3", "longrope", "ntk", "abf", "none"])
@pytest.mark.parametrize("percent", [1.0, 0.75])
def test_transformers_makes_the_frequencies_of_every_static_method(method: str, percent: float) -> None:
    """To the bit or one step of fp32, on either side of the original window."""
    spec = make_spec(method, head_dim=16, rotary_percent=percent)
    entries = PHI.extension_entries(spec)
    sizes = {"hidden_size": 64, "num_attention_heads": 4}
    config = Phi3Config(**sizes, **{key: value for key, value in entries.items() if key != RECORD})
    rotary = Phi3RotaryEmbedding(config)
    for length in (spec.original_window, spec.original_window + 1):
        rotary(torch.zeros(1), torch.tensor([[length - 1]]))
        wanted = inverse_frequencies(spec, length)
        torch.testing.assert_close(rotary.inv_freq, wanted, rtol=2**-23, atol=0)
        assert rotary.attention_scaling == pytest.approx(attention_factor(spec, length), rel=1e-12)
    assert read(entries) == spec
    # vLLM takes the least of all windows in a file, and multiplies none of LongRoPE's by a factor.
    assert entries["max_position_embeddings"] == spec.target_window
    assert not set(OTHER_WINDOWS) & set(entries)
    del entries[RECORD]
    assert read(entries).method == ("longrope" if "rope_scaling" in entries else "none")


def test_a_whole_factor_is_every_divisor() -> None:
    entries = PHI.extension_entries(make_spec("linear", target_window=16 * 512, head_dim=96))
    assert entries["rope_scaling"]["long_factor"] == pytest.approx([16.0] * 48, rel=2**-22)
    assert entries["rope_scaling"]["attention_factor"] == entries["rope_scaling"]["long_mscale"] == 1.0


def test_published_entries_alone_where_they_suffice() -> None:
    """Before transformers 5, Phi-3 refuses a fourth entry."""
    extension = read({**PHI_128K, "rope_scaling": {**longrope_lists(8), "type": "longrope"}})
    entries = PHI.extension_entries(extension)
    assert entries["rope_scaling"] == {**longrope_lists(8), "type": "longrope"}
    assert entries["original_max_position_embeddings"] == 4096


def test_a_record_of_what_the_class_cannot_compute_counts_for_nothing() -> None:
    entries = PHI.extension_entries(make_spec("yarn", head_dim=16))
    grown = {**entries[RECORD], "query_scale": {"beta": 1.0, "window": 512}}
    assert read({**entries, RECORD: grown}).method == "longrope"


def test_an_edited_file_counts_more_than_the_record() -> None:
    entries = PHI.extension_entries(make_spec("yarn", head_dim=16))
    entries["rope_scaling"]["long_factor"][0] = 7.0
    assert read(entries).method == "longrope"


def test_a_window_that_is_not_there_is_the_class_s() -> None:
    config = {"model_type": "phi3", **SIZES}
    config.pop("max_position_embeddings", None)
    extension = PHI.read_extension(config, SHAPE)
    assert extension.original_window == 4096
    assert "max_position_embeddings, which is not there" in window_source(config, extension)


def test_scaled_heads_of_another_width_leave_as_a_class_that_takes_them() -> None:
    """transformers' Phi3Config counts the divisors by hidden_size / num_attention_heads."""
    wide = replace(SHAPE, head_dim=24)
    spec = make_spec("yarn", head_dim=24)
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "head_dim": 24}
    entries = {key: value for key, value in PHI.extension_entries(spec).items() if key != RECORD}
    with pytest.raises(Exception, match="short_factor field must have length 8, got 12"):
        Phi3Config(**sizes, **entries)
    assert export_form(wide, spec).family.architecture == "LlamaForCausalLM"
    with pytest.raises(CheckpointError, match=r"model\.kv_channels: required .* = 16: .*Phi3ForCausalLM"):
        export_form(wide, spec, "Phi3ForCausalLM")
    # No other class rotates a part of each head.
    with pytest.raises(CheckpointError, match=r"model\.kv_channels"):
        export_form(wide, make_spec("yarn", head_dim=24, rotary_percent=0.5))
    assert export_form(wide, make_spec("none", head_dim=24)).family.architecture == "Phi3ForCausalLM"
    assert export_form(SHAPE, make_spec("yarn", head_dim=16)).family.architecture == "Phi3ForCausalLM"
