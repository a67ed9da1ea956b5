"""Models that are no family here: named, with what is missing."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from nemo_pi.errors import CheckpointError
from nemo_pi.families import refused
from nemo_pi.families.registry import family_of_config, names

CASES = {
    "mixtral": "mixtures of experts",
    "qwen3_moe": "mixtures of experts",
    "gpt_oss": "mixtures of experts",
    "granitemoe": "mixtures of experts",
    "deepseek_v3": r"multi-head latent attention \(MLA\)",
    "gemma2": "softcapping",
    "jamba": "state spaces",
    "qwen3_next": "linear attention",
    "falcon_h1": "state spaces",
    "mamba": "state spaces",
    "bloom": "linear biases",
    "mpt": "linear biases",
    "gpt2": "no rotary position embeddings",
    "llava": "images",
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_missing_is_said(name: str) -> None:
    with pytest.raises(
        CheckpointError, match=rf"model_type.*{name}: .*{CASES[name]}.*; given '{name}'"
    ) as caught:
        family_of_config({"model_type": name})
    assert all(known in caught.value.required for known in names())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_local_experts": 8}, "mixtures of experts"),
        ({"kv_lora_rank": 512}, "MLA"),
        ({"attn_logit_softcapping": 50.0}, "softcapping"),
        ({"vision_config": {"depth": 2}}, "images"),
        ({"mamba_d_state": 16}, "state spaces"),
        ({"alibi": True}, "linear biases"),
    ],
    ids=str,
)
def test_an_unknown_model_is_known_by_what_it_has(config: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=rf"somebodys: .*{message}.*; given 'somebodys'"):
        family_of_config({"model_type": "somebodys", **config})


@pytest.mark.parametrize(("key", "value"), [("num_experts", 0), ("vision_config", None), ("alibi", False)])
def test_an_entry_that_says_nothing_says_nothing(key: str, value: Any) -> None:
    assert refused.missing_for({"model_type": "somebodys", key: value}) is None


def test_no_family_is_refused_and_every_name_is_spelt_as_transformers_spells_it() -> None:
    assert not set(refused._BY_NAME) & set(names())
    # Of models that ship their code, or that transformers has no more.
    elsewhere = {"grok", "kimi_k2"}
    assert set(refused._BY_NAME) - set(CONFIG_MAPPING) == elsewhere
