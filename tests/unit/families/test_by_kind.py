"""OLMo 3 and Gemma 3: kinds of layers and their rotary entries in every spelling, read as by transformers."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from transformers import AutoConfig
from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding
from transformers.models.olmo3.modeling_olmo3 import Olmo3RotaryEmbedding

from nemo_pi.errors import CheckpointError
from nemo_pi.families.registry import family_of_config
from nemo_pi.rope.hf_kinds import FULL, SLIDING
from nemo_pi.rope.tables import attention_factor, inverse_frequencies

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 65536,
}
READERS: dict[str, Any] = {"olmo3": Olmo3RotaryEmbedding, "gemma3_text": Gemma3RotaryEmbedding}
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 8192}
PLAIN = {"rope_type": "default", "rope_theta": 7e3}
SPELLINGS: dict[str, dict[str, Any]] = {
    "silent": {},
    "published OLMo 3": {"rope_theta": 5e5, "rope_scaling": {**YARN, "attention_factor": 1.2079441541679836}},
    "published Gemma 3": {
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    },
    "another base": {"rope_theta": 1234.0},
    "nested": {"rope_parameters": {FULL: {**YARN, "rope_theta": 1e6}, SLIDING: PLAIN}},
    "nested in part": {"rope_parameters": {FULL: {"rope_type": "linear", "factor": 2.0}}},
    "nested, one null": {"rope_parameters": {FULL: PLAIN, SLIDING: None}, "rope_theta": 99.0},
    "nested, both scaled": {"rope_parameters": {FULL: YARN, SLIDING: {**YARN, "rope_theta": 3e3}}},
    "nested and older": {"rope_parameters": {FULL: PLAIN, SLIDING: PLAIN}, "rope_scaling": YARN},
}


def theirs_of(name: str, entries: dict[str, Any]) -> Any:
    """transformers' configuration; from a file of its own, since it writes on what it is given."""
    own = json.loads(json.dumps({key: value for key, value in entries.items() if key != "model_type"}))
    return AutoConfig.for_model(name, **own)


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", READERS)
def test_positions_are_those_of_transformers(name: str, spelling: str) -> None:
    given = SIZES | {"head_dim": 16} | SPELLINGS[spelling]
    config = {"model_type": name, **given}
    family, theirs = family_of_config(config), theirs_of(name, given)
    extension = family.read_extension(config, family.read_shape(config))
    assert extension.sliding is not None
    reader = READERS[name](theirs)
    for kind, spec in zip((FULL, SLIDING), extension.kinds, strict=True):
        expected = getattr(reader, f"{kind}_inv_freq")
        torch.testing.assert_close(inverse_frequencies(spec), expected, rtol=1e-6, atol=0)
        assert attention_factor(spec) == pytest.approx(getattr(reader, f"{kind}_attention_scaling"))
        assert spec.base == theirs.rope_parameters[kind]["rope_theta"]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", READERS)
def test_what_is_written_is_read_as_the_same(name: str, spelling: str) -> None:
    config = {"model_type": name, **SIZES, **SPELLINGS[spelling]}
    family = family_of_config(config)
    shape = family.read_shape(config)
    extension = family.read_extension(config, shape)
    kept = {key: value for key, value in config.items() if key not in family.rope_keys}
    written = {**kept, **family.extension_entries(extension)}
    assert family.read_extension(written, shape) == extension
    again, theirs = theirs_of(name, written), theirs_of(name, config)
    for kind in (FULL, SLIDING):
        for key, value in theirs.rope_parameters[kind].items():
            assert again.rope_parameters[kind][key] == value


LAYERS: list[dict[str, Any]] = [
    {},
    {"sliding_window": 16},
    {"layer_types": [FULL, SLIDING] * 4, "sliding_window": 16},
    {"layer_types": [FULL] * 8},
    {"layer_types": [SLIDING] * 8},
]


@pytest.mark.parametrize("given", [*LAYERS, {"sliding_window_pattern": 3}], ids=str)
@pytest.mark.parametrize("name", READERS)
def test_kinds_of_layers_are_those_of_transformers(name: str, given: dict[str, Any]) -> None:
    config = {"model_type": name, **SIZES, **given}
    family, theirs = family_of_config(config), theirs_of(name, SIZES | given)
    windows = [theirs.sliding_window if kind == SLIDING else None for kind in theirs.layer_types]
    shape = family.read_shape(config)
    assert [shape.window_of(layer) for layer in range(8)] == windows
    assert (family.read_extension(config, shape).sliding is None) == (not any(windows))
    written = family.shape_entries(shape)
    assert family.read_shape(written) == shape
    assert theirs_of(name, written).layer_types == theirs.layer_types


@pytest.mark.parametrize("name", READERS)
def test_a_model_without_sliding_layers_has_one_set_of_entries(name: str) -> None:
    config = {"model_type": name, **SIZES, "layer_types": [FULL] * 8, **SPELLINGS["nested"]}
    family = family_of_config(config)
    shape = family.read_shape(config)
    extension = family.read_extension(config, shape)
    entries = family.extension_entries(extension)
    assert list(entries["rope_parameters"]) == [FULL]
    assert family.read_extension({**config, **entries}, shape) == extension


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("olmo3", {"rope_parameters": YARN}, "rope_parameters.*transformers overlooks"),
        ("olmo3", {"rope_parameters": {FULL: "yarn"}}, "rope_parameters.*with entries each"),
        ("olmo3", {"rope_parameters": [YARN]}, "rope_parameters.*with entries each"),
        ("olmo3", {"rope_scaling": "yarn"}, "rope_scaling"),
        ("olmo3", {"rope_theta": "1e6"}, "rope_theta"),
        ("olmo3", {"rope_scaling": {"type": "yarn", "factor": 8.0}}, "write rope_type for type"),
        ("olmo3", {"rope_scaling": {"rope_type": "linear"}}, "factor"),
        ("olmo3", {"sliding_window": None}, "sliding_window"),
        ("olmo3", {"attention_bias": True}, "attention_bias"),
        (
            "olmo3",
            {"rope_parameters": {FULL: PLAIN | {"partial_rotary_factor": 0.5}}},
            "partial_rotary_factor.: required 0.5 in layers with a sliding window",
        ),
        (
            "gemma3_text",
            {"rope_parameters": dict.fromkeys((FULL, SLIDING), PLAIN | {"partial_rotary_factor": 0.5})},
            "partial_rotary_factor: required 1.0",
        ),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping: required null"),
        ("gemma3_text", {"final_logit_softcapping": 30.0}, "final_logit_softcapping: required null"),
        (
            "olmo3",
            {"rope_scaling": {"rope_type": "yarn", "factor": 8.0}, "original_max_position_embeddings": 8192},
            "required absent beside scaled full_attention layers; given 8192",
        ),
        (
            "gemma3_text",
            {
                "rope_parameters": {SLIDING: {**PLAIN, "rope_type": "linear", "factor": 2.0}},
                "original_max_position_embeddings": 8192,
            },
            "required absent beside scaled sliding_attention layers",
        ),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma3_text", {"hidden_activation": "silu"}, "hidden_activation"),
        ("gemma3_text", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar"),
        ("gemma3_text", {"sliding_window_pattern": 0}, "sliding_window_pattern"),
    ],
    ids=str,
)
def test_what_cannot_be_computed_is_refused(name: str, change: dict[str, Any], message: str) -> None:
    config = {"model_type": name, **SIZES, **change}
    with pytest.raises(CheckpointError, match=message):
        family = family_of_config(config)
        family.read_extension(config, family.read_shape(config))


def test_an_original_window_that_transformers_overlooks_is_read_where_the_message_puts_it() -> None:
    """The fix of the refusal above; and a plain model may carry one."""
    scaled = {"rope_scaling": YARN, "original_max_position_embeddings": 4096}
    for name in READERS:
        config = {"model_type": name, **SIZES, **scaled}
        family = family_of_config(config)
        assert family.read_extension(config, family.read_shape(config)).original_window == 8192
        plain = {"model_type": name, **SIZES, "original_max_position_embeddings": 4096}
        assert family.read_extension(plain, family.read_shape(plain)).original_window == 65536
