"""The window that servers read from an export is the one that was meant.

What they compute is written down here in our own words, from their sources: vLLM's
`ModelArchConfigConvertorBase.derive_max_model_len_and_key` and `_get_and_verify_max_len`
(vllm/transformers_utils/model_arch_config_convertor.py and vllm/config/model.py of 0.33.0), SGLang's
`get_context_length` (python/sglang/srt/hf_transformers_utils.py). Where vLLM is installed, its own function
is asked as well: it imports without a GPU.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, PretrainedConfig

from nemo_pi.checkpoint.hf.config import extension_from_config, shape_from_config
from nemo_pi.checkpoint.hf.config_write import build_config
from nemo_pi.checkpoint.hf.source import HuggingFaceSource
from nemo_pi.checkpoint.hf.target import write_side_files
from nemo_pi.rope.spec import ContextExtension

ORIGINAL, TARGET = 512, 4096
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "vocab_size": 96,
    "max_position_embeddings": ORIGINAL,
}
# LongChat and Vicuna name the window that they were extended to beside the one of before.
VICUNA = {"max_sequence_length": 2048, "rope_scaling": {"type": "linear", "factor": 4.0}}
METHODS: dict[str, dict[str, Any]] = {
    "none": {},
    "linear": {},
    "ntk": {},
    "dynamic": {},
    "yarn": {},
    "llama3": {},
    "longrope": {"short_factor": [1.0] * 8, "long_factor": [8.0] * 8},
    "abf": {"base": 5e5},
}


def vllm_window(config: PretrainedConfig, tokenizer: dict[str, Any]) -> tuple[int, int]:
    """The window that vLLM serves by default, and the longest that --max-model-len may ask for."""
    keys = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length")
    keys += ("max_target_positions", "max_sequence_length", "max_seq_length", "seq_len")
    windows = [getattr(config, key) for key in keys if getattr(config, key, None) is not None]
    window = getattr(config, "model_max_length", None) or min(windows)
    window = min(window, tokenizer.get("model_max_length", window))
    rope = config.rope_parameters
    if rope["rope_type"] not in ("su", "longrope", "llama3", "yarn"):
        window = window * rope.get("factor", 1.0)
    if rope["rope_type"] == "longrope":
        return int(getattr(config, "original_max_position_embeddings", window)), int(window)
    return int(window), int(window)


def sglang_window(config: PretrainedConfig) -> int:
    """The window that SGLang serves."""
    rope = config.rope_scaling or {}  # transformers 5: another name of rope_parameters
    states_original = "original_max_position_embeddings" in rope or rope.get("rope_type") == "llama3"
    keys = ("max_sequence_length", "seq_length", "max_seq_len", "model_max_length", "max_position_embeddings")
    window = next(getattr(config, key) for key in keys if getattr(config, key, None) is not None)
    return int(window * (1 if states_original else rope.get("factor", 1)))


def vllm_s_own(config: PretrainedConfig, tokenizer: dict[str, Any]) -> int | None:
    """What the installed vLLM says; None without it."""
    try:
        from vllm.config.model import _get_and_verify_max_len
        from vllm.transformers_utils.model_arch_config_convertor import ModelArchConfigConvertorBase
    except ImportError:
        return None
    return _get_and_verify_max_len(
        config,
        ModelArchConfigConvertorBase(config, config).convert(),
        tokenizer,
        max_model_len=None,
        disable_sliding_window=False,
        sliding_window=None,
    )


def exported(method: str, config: dict[str, Any], folder: Path) -> tuple[PretrainedConfig, dict[str, Any]]:
    """What servers read of an export: transformers' config, and tokenizer_config.json."""
    shape = shape_from_config(config)
    extension = ContextExtension.build(
        original_window=extension_from_config(config, shape).original_window,
        target_window=TARGET,
        method=method,
        head_dim=16,
        extra_args=METHODS[method],
    )
    tokenizer, out = folder / "tokenizer", folder / "out"
    tokenizer.mkdir()
    out.mkdir()
    (tokenizer / "tokenizer.json").write_text("{}")
    (tokenizer / "tokenizer_config.json").write_text(json.dumps({"model_max_length": ORIGINAL}))
    write_side_files(out, shape, extension, HuggingFaceSource(config), tokenizer, None)
    return AutoConfig.from_pretrained(out), json.loads((out / "tokenizer_config.json").read_text())


@pytest.mark.parametrize("source", [CONFIG, CONFIG | VICUNA], ids=["plain", "vicuna"])
@pytest.mark.parametrize("method", METHODS)
def test_servers_read_the_target_window(method: str, source: dict, tmp_path: Path) -> None:
    config, tokenizer = exported(method, source, tmp_path)
    default, longest = vllm_window(config, tokenizer)
    assert longest == TARGET
    # Without --max-model-len vLLM serves LongRoPE within the original window, by its short factors.
    assert default == (ORIGINAL if method == "longrope" else TARGET)
    assert sglang_window(config) == TARGET
    assert vllm_s_own(config, tokenizer) in (None, default)


def test_the_table_notices_a_window_that_is_multiplied_twice(tmp_path: Path) -> None:
    config, tokenizer = exported("linear", CONFIG, tmp_path)
    del config.seq_length
    assert vllm_window(config, tokenizer)[1] == sglang_window(config) == 8 * TARGET


def test_no_window_of_another_extension_stays() -> None:
    """Read as the smaller of two, Vicuna's old one would undo the extension."""
    source = CONFIG | VICUNA | {"seq_length": 2048, "model_max_length": 2048}
    shape = shape_from_config(source)
    read = extension_from_config(source, shape)
    assert (read.original_window, read.target_window) == (ORIGINAL, 2048)
    assert build_config(shape, read, HuggingFaceSource(source), None) == source, "untouched if not extended"
    longer = ContextExtension.build(
        original_window=ORIGINAL, target_window=TARGET, method="yarn", head_dim=16, factor=8.0
    )
    written = build_config(shape, longer, HuggingFaceSource(source), None)
    assert (
        not {"max_sequence_length", "seq_length"} & written.keys() and written["model_max_length"] == TARGET
    )
    assert extension_from_config(written, shape) == longer


@pytest.mark.parametrize("original", [300, 777, 4096])
@pytest.mark.parametrize("target", [1000, 4999, 131072])
def test_windows_that_are_no_multiple(original: int, target: int) -> None:
    if target < original:
        pytest.skip("no extension")
    for method in ("linear", "dynamic", "yarn"):
        extension = ContextExtension.build(
            original_window=original, target_window=target, method=method, head_dim=16
        )
        source = CONFIG | {"max_position_embeddings": original}
        written = build_config(shape_from_config(source), extension, HuggingFaceSource(source), None)
        theirs = vllm_window(AutoConfig.for_model(**written), {"model_max_length": target})[1]
        # The factor is a float, and vLLM rounds its product down.
        assert theirs in (target, target - 1)
