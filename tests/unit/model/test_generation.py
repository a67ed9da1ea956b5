"""Cached generation against computation from scratch, and greedy generation against transformers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.errors import ConfigError, DataError
from nemo_pi.evaluation.sampling import Sampling
from nemo_pi.model import generation
from nemo_pi.model.generation import Decoder, generate
from nemo_pi.model.gpt import RotaryGPTModel
from nemo_pi.parallel.cpu_shim import cpu_shim
from tests.unit.model.models import (
    SHAPE,
    WINDOW,
    ExactRotary,
    forward,
    ours_from,
    random_tokens,
    transformers_model,
)

pytestmark = pytest.mark.usefixtures("one_rank")

FACTOR = 3
PAIRS = SHAPE.head_dim // 2
SCALED: dict[str, dict[str, Any]] = {
    "none": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": FACTOR},
    "yarn": {"rope_type": "yarn", "factor": FACTOR, "original_max_position_embeddings": WINDOW},
    "llama3": {
        "rope_type": "llama3",
        "factor": FACTOR,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": WINDOW,
    },
    "dynamic": {"rope_type": "dynamic", "factor": FACTOR},
    "longrope": {
        "rope_type": "longrope",
        "factor": FACTOR,
        "original_max_position_embeddings": WINDOW,
        "short_factor": [1.0 + 0.1 * j for j in range(PAIRS)],
        "long_factor": [1.0 + 0.9 * j for j in range(PAIRS)],
    },
}
NEW = WINDOW


def make(method: str, folder: Path, **settings: Any) -> tuple[Any, RotaryGPTModel]:
    """transformers' model and ours, with the same weights."""
    theirs_window = WINDOW if method == "dynamic" else FACTOR * WINDOW
    theirs = transformers_model(
        rope_parameters={"rope_theta": 10000.0, **SCALED[method]},
        max_position_embeddings=theirs_window,
        **settings,
    )
    theirs.save_pretrained(folder)
    ours = ours_from(folder, read_summary(folder).extension)
    assert ours.rotary_tables.extension.target_window == FACTOR * WINDOW
    return theirs, ours


def prompt(length: int = WINDOW // 2, rows: int = 2) -> Tensor:
    return random_tokens(rows, length, seed=length)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.3, top_k=40, seed=3)], ids=str)
@pytest.mark.parametrize("method", SCALED)
def test_cached_generation_equals_computation_from_scratch(
    method: str, sampling: Sampling, tmp_path: Path
) -> None:
    """From within the original window to beyond it: the frequencies of dynamic and longrope change."""
    _, model = make(method, tmp_path)
    cached = generate(model, prompt(), NEW, sampling)
    scratch = generate(model, prompt(), NEW, sampling, use_cache=False)
    assert cached.shape == (2, NEW)
    assert torch.equal(cached, scratch)
    assert len(cached.unique()) > 5, "a loop would prove little"


@pytest.mark.parametrize("method", SCALED)
def test_greedy_generation_equals_transformers(method: str, tmp_path: Path) -> None:
    """Without a cache on their side: theirs keeps keys that were rotated at an older base."""
    theirs, ours = make(method, tmp_path)
    theirs.model.rotary_emb = ExactRotary(theirs.model.rotary_emb)
    expected = theirs.generate(
        prompt(), max_new_tokens=NEW, do_sample=False, use_cache=False, eos_token_id=-1, pad_token_id=0
    )
    assert torch.equal(generate(ours, prompt(), NEW), expected[:, prompt().size(1) :])


@pytest.mark.parametrize("method", ["dynamic", "longrope"])
def test_keys_kept_under_older_frequencies_would_tell(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, model = make(method, tmp_path)
    scratch = generate(model, prompt(), NEW)
    monkeypatch.setattr(generation, "same_frequencies", lambda *_: True)
    assert not torch.equal(generate(model, prompt(), NEW), scratch)


def test_keys_kept_unrotated_would_not_do_either(tmp_path: Path) -> None:
    """What a token hands to the second layer, and so its key there, follows the length from the first on."""
    _, model = make("dynamic", tmp_path)
    keys: list[Tensor] = []
    hooks = [
        layer.self_attention.linear_qkv.register_forward_hook(lambda *call: keys.append(call[2][0]))
        for layer in model.decoder.layers
    ]
    text = prompt(2 * WINDOW)
    for length in (2 * WINDOW, 2 * WINDOW + 1):
        with torch.no_grad(), cpu_shim():
            model(
                input_ids=text,
                position_ids=torch.arange(2 * WINDOW).expand_as(text),
                attention_mask=None,
                seq_len=length,
            )
    for hook in hooks:
        hook.remove()
    assert torch.equal(keys[0], keys[2]), "first layer: from the embeddings alone"
    assert (keys[1] - keys[3]).abs().max() > 1e-3


QWEN_WINDOWS = {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}
SMOLLM_LAYERS = {"use_sliding_window": True, "sliding_window": 9, "no_rope_layer_interval": 2}
KINDS = {
    "sliding_window": 9,
    "layer_types": ["sliding_attention", "full_attention"],
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4},
        "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
    },
}
# Queries grow at every tenth token, within the prompt and beyond.
GROWING = {"rope_type": "default", "llama_4_scaling_beta": 0.5, "original_max_position_embeddings": 10}


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("mistral", {"sliding_window": 9}),
        ("qwen2", QWEN_WINDOWS),
        ("qwen3", {}),
        ("smollm3", SMOLLM_LAYERS),
        ("ministral3", {"rope_parameters": GROWING}),
        ("olmo3", KINDS),
        ("gemma3_text", {**KINDS, "query_pre_attn_scalar": 16}),
    ],
    ids=["mistral", "qwen2", "qwen3", "smollm3", "ministral3", "olmo3", "gemma3"],
)
def test_what_is_particular_to_a_family_generates_as_transformers(
    family: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    theirs = transformers_model(family, max_position_embeddings=FACTOR * WINDOW, **settings)
    theirs.save_pretrained(tmp_path)
    summary = read_summary(tmp_path)
    ours = ours_from(tmp_path, summary.extension, shape=summary.shape)
    expected = theirs.generate(
        prompt(), max_new_tokens=NEW, do_sample=False, use_cache=False, eos_token_id=-1, pad_token_id=0
    )
    assert torch.equal(generate(ours, prompt(), NEW), expected[:, prompt().size(1) :])


def test_a_cache_is_made_anew_where_one_kind_of_layer_changes_its_frequencies(tmp_path: Path) -> None:
    """Dynamic NTK in full-attention layers alone; kept keys would tell."""
    rope = {**KINDS["rope_parameters"], "full_attention": {"rope_theta": 1e4, **SCALED["dynamic"]}}
    transformers_model("olmo3", **{**KINDS, "rope_parameters": rope}).save_pretrained(tmp_path)
    summary = read_summary(tmp_path)
    ours = ours_from(tmp_path, summary.extension, shape=summary.shape)
    scratch = generate(ours, prompt(), NEW, use_cache=False)
    assert torch.equal(generate(ours, prompt(), NEW), scratch)


@pytest.mark.parametrize("method", ["linear", "dynamic"])
def test_logits_of_a_text_that_grows_by_several_tokens(method: str, tmp_path: Path) -> None:
    _, model = make(method, tmp_path)
    text = prompt(2 * WINDOW)
    decoder = Decoder(model, 2, 2 * WINDOW)
    for length in (10, 11, 14, WINDOW - 1, WINDOW, WINDOW + 5, 2 * WINDOW):
        with torch.no_grad():
            logits = decoder.logits(text[:, :length])
            expected = forward(model, text[:, :length])[:, -1]
        assert decoder.num_cached == length
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_what_is_kept_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens that pass through the embedding: the prompt once, then one at a time; dynamic NTK recomputes."""
    lengths: list[int] = []

    def counted(model: RotaryGPTModel) -> list[int]:
        lengths.clear()
        hook = model.embedding.register_forward_hook(lambda *call: lengths.append(call[2].size(0)))
        generate(model, prompt(WINDOW - 2, rows=1), 5)
        hook.remove()
        return list(lengths)

    (tmp_path / "a").mkdir()
    assert counted(make("linear", tmp_path / "a")[1]) == [WINDOW - 2, 1, 1, 1, 1]
    assert counted(make("dynamic", tmp_path / "b")[1]) == [WINDOW - 2, 1, 1, WINDOW + 1, WINDOW + 2]
    assert counted(make("longrope", tmp_path / "c")[1]) == [WINDOW - 2, 1, 1, WINDOW + 1, 1]


def test_rows_end_with_a_stop_token(tmp_path: Path) -> None:
    _, model = make("linear", tmp_path)
    free = generate(model, prompt(), NEW)
    stop = int(free[0, 5])
    first = [row.tolist().index(stop) if stop in row else math.inf for row in free]
    stopped = generate(model, prompt(), NEW, stop_ids=[stop])
    for row, wanted, end in zip(stopped, free, first, strict=True):
        kept = min(end + 1, NEW)
        assert torch.equal(row[:kept], wanted[:kept])
        assert (row[kept:] == stop).all()
    assert stopped.size(1) == min(max(first) + 1, NEW)


@pytest.mark.parametrize("length", [0, FACTOR * WINDOW, FACTOR * WINDOW + 8])
def test_a_prompt_that_does_not_fit_is_refused(length: int, tmp_path: Path) -> None:
    _, model = make("linear", tmp_path)
    with pytest.raises(DataError, match=rf"^prompt: .*{FACTOR * WINDOW}.*{length} tokens"):
        generate(model, prompt(length), 1)


@pytest.mark.parametrize("new", [0, 9])
def test_more_tokens_than_there_is_room_for_are_refused(new: int, tmp_path: Path) -> None:
    _, model = make("linear", tmp_path)
    with pytest.raises(ConfigError, match=f"^max_new_tokens: .* 1 to 8: .* {FACTOR * WINDOW} .*given {new}"):
        generate(model, prompt(FACTOR * WINDOW - 8), new)
    assert generate(model, prompt(FACTOR * WINDOW - 8), 8).shape == (2, 8)


def test_ids_outside_the_vocabulary_are_refused(tmp_path: Path) -> None:
    _, model = make("linear", tmp_path)
    with pytest.raises(DataError, match="ids from"):
        generate(model, prompt() + SHAPE.vocab_size, 1)
