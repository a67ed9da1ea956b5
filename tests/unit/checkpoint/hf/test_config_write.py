"""config.json written: untouched where nothing changed, and read by transformers as we mean it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from nemo_pi.checkpoint.files import read_json, write_json
from nemo_pi.checkpoint.hf.config import extension_from_config, shape_from_config
from nemo_pi.checkpoint.hf.config_write import build_config
from nemo_pi.checkpoint.hf.source import HuggingFaceSource
from nemo_pi.errors import CheckpointError
from nemo_pi.families.base import Family
from nemo_pi.families.llama import Llama
from nemo_pi.families.registry import families
from nemo_pi.rope.spec import ContextExtension
from nemo_pi.rope.tables import attention_factor, inverse_frequencies

BASE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "vocab_size": 96,
    "max_position_embeddings": 128,
    "torch_dtype": "bfloat16",
    "bos_token_id": 1,
    "pretraining_tp": 1,
    "a_field_of_somebody_else": {"kept": [1, 2]},
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 16}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [3.0] * 8}

SPELLINGS: list[dict[str, Any]] = [
    {},
    {"rope_theta": 500000.0, "rope_scaling": None},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 20000.0}},
    {"rope_theta": 20000.0, "rope_scaling": {"type": "linear", "factor": 4.0}},
    {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
    {"rope_scaling": LLAMA3, "rope_theta": 5e5},
    {"rope_scaling": YARN},
    {"rope_scaling": LONGROPE, "original_max_position_embeddings": 32},
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_unchanged_model_keeps_its_config_to_the_letter(spelling: dict) -> None:
    config = {**BASE, **spelling}
    shape = shape_from_config(config)
    source = HuggingFaceSource(config, dtype="float32")
    extension = extension_from_config(config, shape)
    assert build_config(shape, extension, source, None) == config
    assert list(build_config(shape, extension, source, "float32")) == list(config)


METHODS: dict[str, dict[str, Any]] = {
    "none": {},
    "linear": {},
    "ntk": {},
    "dynamic": {},
    "yarn": {"extra_args": {"beta_fast": 16.0, "mscale": 1.0, "mscale_all_dim": 0.5}},
    "llama3": {"extra_args": {"low_freq_factor": 2.0, "high_freq_factor": 8.0}},
    "longrope": {
        "extra_args": {
            "short_factor": [1.0 + i / 8 for i in range(8)],
            "long_factor": [2.0 + i for i in range(8)],
        }
    },
}


def extension_for(method: str, base: float = 12345.0) -> ContextExtension:
    """32 to 256 tokens."""
    return ContextExtension.build(
        original_window=32, target_window=256, method=method, head_dim=16, base=base, **METHODS[method]
    )


@pytest.mark.parametrize("spelling", SPELLINGS, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_transformers_reads_what_we_mean(method: str, spelling: dict, tmp_path) -> None:
    config = {**BASE, **spelling}
    shape, extension = shape_from_config(config), extension_for(method)
    written = build_config(shape, extension, HuggingFaceSource(config), None)
    write_json(tmp_path / "config.json", written)

    assert extension_from_config(written, shape) == extension
    assert written["a_field_of_somebody_else"] == BASE["a_field_of_somebody_else"]
    assert written["max_position_embeddings"] == (32 if method in ("dynamic", "yarn") else 256)

    theirs = LlamaRotaryEmbedding(AutoConfig.from_pretrained(tmp_path))
    for length in (16, 32, 33, 200, 256, 700):
        cos, sin = theirs(torch.zeros(1), torch.arange(length)[None])
        angles = torch.arange(length)[:, None].float() * inverse_frequencies(extension, length)
        factor = attention_factor(extension, length)
        torch.testing.assert_close(cos[0, :, :8], angles.cos() * factor, rtol=0, atol=2e-6 * length)
        torch.testing.assert_close(sin[0, :, :8], angles.sin() * factor, rtol=0, atol=2e-6 * length)


@pytest.mark.parametrize("method", METHODS)
def test_a_folder_that_transformers_saved_again_is_read_alike(method: str, tmp_path) -> None:
    """save_pretrained keeps keys it does not know, and spells the rope entries in its own way."""
    shape, extension = shape_from_config(BASE), extension_for(method)
    write_json(tmp_path / "config.json", build_config(shape, extension, HuggingFaceSource(BASE), None))
    config = AutoConfig.from_pretrained(tmp_path)
    config.some_setting_of_the_user = 1
    config.save_pretrained(tmp_path / "again")
    again = read_json(tmp_path / "again" / "config.json")
    assert again["some_setting_of_the_user"] == 1
    assert shape_from_config(again) == shape
    assert extension_from_config(again, shape) == extension


def test_a_static_ntk_model_whose_record_was_lost_is_one_of_a_larger_base() -> None:
    """Its positions are the same, and NTK on top of it is what NTK by both factors at once would be."""
    shape, extension = shape_from_config(BASE), extension_for("ntk")
    config = build_config(shape, extension, HuggingFaceSource(BASE), None)
    del config["nemo_pi_extension"]
    read = extension_from_config(config, shape)
    assert not read.is_scaled
    assert (read.original_window, read.target_window) == (256, 256)
    assert torch.equal(inverse_frequencies(read, 256), inverse_frequencies(extension, 256))
    twice = ContextExtension.build(
        original_window=256, target_window=1024, method="ntk", head_dim=16, base=read.base
    )
    at_once = ContextExtension.build(
        original_window=32, target_window=1024, method="ntk", head_dim=16, base=12345.0
    )
    torch.testing.assert_close(
        inverse_frequencies(twice, 1024), inverse_frequencies(at_once, 1024), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("method", METHODS)
def test_older_readers_find_the_scaling_too(method: str) -> None:
    """Readers before transformers 5 know rope_theta and rope_scaling only."""
    config = {**BASE, "rope_theta": 777.0}
    written = build_config(shape_from_config(config), extension_for(method), HuggingFaceSource(config), None)
    assert "rope_parameters" not in written, "one truth, in words that all readers know"
    without = {key: value for key, value in written.items() if key != "nemo_pi_extension"}
    extension, read = extension_for(method), extension_from_config(without, shape_from_config(without))
    for length in (16, 256, 700):
        assert torch.equal(inverse_frequencies(read, length), inverse_frequencies(extension, length))
        assert attention_factor(read, length) == attention_factor(extension, length)


def test_a_factor_that_is_edited_is_edited_for_everybody(tmp_path: Path) -> None:
    """The key that vLLM's, Qwen's and llama.cpp's pages name; an export that says it twice would keep one."""
    written = build_config(shape_from_config(BASE), extension_for("linear"), HuggingFaceSource(BASE), None)
    written["rope_scaling"] = {**written["rope_scaling"], "factor": 16.0}
    written["max_position_embeddings"] = 512
    write_json(tmp_path / "config.json", written)
    read = extension_from_config(written, shape_from_config(written))
    assert (read.original_window, read.target_window, read.factor) == (32, 512, 16.0)
    theirs = LlamaRotaryEmbedding(AutoConfig.from_pretrained(tmp_path))
    torch.testing.assert_close(inverse_frequencies(read, 512), theirs.inv_freq, rtol=1e-6, atol=0)


def test_no_stale_rope_entry_survives() -> None:
    config = {**BASE, "rope_theta": 777.0, "rope_scaling": LLAMA3, "partial_rotary_factor": 1.0}
    plain = ContextExtension.unscaled(128, head_dim=16, base=50000.0)
    written = build_config(shape_from_config(config), plain, HuggingFaceSource(config), None)
    assert written["rope_theta"] == 50000.0
    assert "rope_scaling" not in written
    assert extension_from_config(written, shape_from_config(written)) == plain


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_without_a_source_the_config_is_complete(family: str, tmp_path) -> None:
    given = {
        **BASE,
        "model_type": family,
        "architectures": None,
        "sliding_window": None,
        "rms_norm_eps": 1e-4,
    }
    shape = shape_from_config({**given, "tie_word_embeddings": True, "num_key_value_heads": 2})
    written = build_config(shape, extension_for("linear"), None, "float16")
    assert shape_from_config(written) == shape
    assert extension_from_config(written, shape) == extension_for("linear")
    write_json(tmp_path / "config.json", written)
    theirs = AutoConfig.from_pretrained(tmp_path)
    assert theirs.model_type == family
    assert theirs.dtype is torch.float16
    assert theirs.rms_norm_eps == 1e-4


def test_a_change_of_dtype_is_written_in_one_spelling() -> None:
    config = build_config(
        shape_from_config(BASE),
        extension_from_config(BASE, shape_from_config(BASE)),
        HuggingFaceSource(BASE, dtype="bfloat16"),
        "float32",
    )
    assert config["dtype"] == "float32"
    assert "torch_dtype" not in config


def test_sizes_follow_the_shape() -> None:
    config = LlamaConfig(**{key: BASE[key] for key in BASE if isinstance(BASE[key], int)}).to_dict()
    shape = shape_from_config({**config, "num_hidden_layers": 1})
    extension = extension_from_config(config, shape)
    assert build_config(shape, extension, HuggingFaceSource(config), None)["num_hidden_layers"] == 1


WHOLE_HEADS = [family for family in families() if not isinstance(family, Llama) or not family.rotates_parts]


@pytest.mark.parametrize("family", WHOLE_HEADS, ids=lambda family: family.name)
def test_partial_rotary_is_refused(family: Family) -> None:
    family.check_exportable(ContextExtension.unscaled(128, head_dim=16))
    with pytest.raises(CheckpointError, match="rotary_percentage"):
        family.check_exportable(ContextExtension.unscaled(128, head_dim=16, rotary_percent=0.5))
