"""Models that are no family here, and what is missing for each: the one table of refusals by name.

What is in no table is looked at: some entries of config.json belong to one kind of model only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_EXPERTS = "mixtures of experts are not supported: there are no routers and no expert layers"
_LATENT = "multi-head latent attention (MLA) is missing"
_CAPPED = "softcapping of attention scores and logits is missing"
_MIXED = "layers of state spaces, convolutions or linear attention are missing"
_ALIBI = "its attention has linear biases (ALiBi), and no rotary position embeddings that could be extended"
_LEARNED = "it has no rotary position embeddings that could be extended"
_IMAGES = "it reads images or sound, too, and only language models are supported"

_MISSING: dict[str, str] = {
    _EXPERTS: """
        afmoe aria_text cohere2_moe dbrx dots1 ernie4_5_moe exaone_moe flex_olmo glm4_moe gpt_oss
        granitemoe granitemoe_swa granitemoeshared grok hunyuan_v1_moe jetmoe llama4 llama4_text
        mimo_v2_flash minimax_m2 mixtral olmoe phimoe qwen2_moe qwen3_moe solar_open
    """,
    f"{_LATENT}; {_EXPERTS}": """
        deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4 glm4_moe_lite glm_moe_dsa kimi_k2 longcat_flash
        mistral4
    """,
    _LATENT: "minicpm3 youtu",
    _CAPPED: "gemma2 vaultgemma",
    _MIXED: """
        bailing_hybrid bamba falcon_h1 falcon_mamba granitemoehybrid jamba kimi_linear lfm2 lfm2_moe lfm3
        mamba mamba2 minimax nemotron_h olmo_hybrid qwen3_5_text qwen3_5_moe_text qwen3_next
        recurrent_gemma rwkv xlstm zamba zamba2
    """,
    _ALIBI: "bloom mpt",
    _LEARNED: "bert biogpt ctrl gpt-sw3 gpt2 gpt_bigcode gpt_neo openai-gpt opt roberta t5 xglm",
    _IMAGES: """
        deepseek_vl gemma3 gemma3n gemma4 glm4v idefics3 internvl lfm2_vl llava llava_next llava_onevision
        mistral3 mllama paligemma phi4_multimodal pixtral qwen2_5_vl qwen2_vl qwen3_5 qwen3_5_moe qwen3_vl
        qwen3_vl_moe smolvlm
    """,
}
_BY_NAME = {name: missing for missing, names in _MISSING.items() for name in names.split()}

# An entry of config.json that such models alone have, where it says something.
_MARKS = (
    ("vision_config", _IMAGES),
    ("audio_config", _IMAGES),
    ("kv_lora_rank", _LATENT),
    ("num_experts", _EXPERTS),
    ("num_local_experts", _EXPERTS),
    ("n_routed_experts", _EXPERTS),
    ("attn_logit_softcapping", _CAPPED),
    ("mamba_d_state", _MIXED),
    ("linear_num_value_heads", _MIXED),
    ("alibi", _ALIBI),
)


def missing_for(config: Mapping[str, Any]) -> str | None:
    """Why the model of a config.json is no family here, in words; None where nothing is known of it."""
    name = config.get("model_type")
    if isinstance(name, str) and name in _BY_NAME:
        return _BY_NAME[name]
    return next((missing for key, missing in _MARKS if config.get(key)), None)
