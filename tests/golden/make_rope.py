"""Writes rope_transformers_<version>.json: rotary frequencies as transformers computes them.

Run it only to take numbers of another version of transformers; it imports nothing of nemo_pi.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.llama.modeling_llama import LlamaConfig, LlamaRotaryEmbedding

# config.json entries of published models (longrope's lists are shortened to a small head).
CONFIGS: dict[str, dict[str, Any]] = {
    "llama-1": {"max_position_embeddings": 2048},
    "code-llama": {"max_position_embeddings": 16384, "rope_theta": 1000000.0},
    "linear-older-spelling": {
        "max_position_embeddings": 16384,
        "rope_theta": 100000.0,
        "rope_scaling": {"type": "linear", "factor": 4.0},
    },
    "dynamic": {"max_position_embeddings": 4096, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
    "qwen2.5-yarn": {
        "max_position_embeddings": 32768,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    },
    "yarn-mscale-untruncated": {
        "max_position_embeddings": 163840,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 40.0,
            "original_max_position_embeddings": 4096,
            "mscale": 1.0,
            "mscale_all_dim": 0.707,
            "truncate": False,
        },
    },
    "llama-3.1": {
        "max_position_embeddings": 131072,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
    "longrope": {
        "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        "rope_scaling": {
            "rope_type": "longrope",
            "short_factor": [1.05, 1.1, 1.2, 1.3, 1.6, 2.0, 2.4, 2.8],
            "long_factor": [1.08, 1.25, 2.0, 5.0, 9.0, 22.0, 47.0, 64.0],
        },
    },
}


def numbers(name: str, config: dict[str, Any], seq_len: int) -> dict[str, Any]:
    """What LlamaRotaryEmbedding holds after it has seen a sequence of seq_len tokens."""
    head_dim = 16 if name == "longrope" else 128
    rotary = LlamaRotaryEmbedding(
        LlamaConfig(**json.loads(json.dumps(config)), hidden_size=head_dim, num_attention_heads=1)
    )
    rotary(torch.zeros(1), torch.tensor([[seq_len - 1]]))
    return {
        "name": f"{name} at {seq_len}",
        "config": config,
        "head_dim": head_dim,
        "seq_len": seq_len,
        "attention_factor": rotary.attention_scaling,
        "inverse_frequencies": rotary.inv_freq.tolist(),
    }


if __name__ == "__main__":
    cases = [numbers(name, config, seq_len) for name, config in CONFIGS.items() for seq_len in (100, 20000)]
    source = (
        f"transformers {transformers.__version__}, LlamaRotaryEmbedding, torch {torch.__version__} on a CPU"
    )
    path = Path(__file__).with_name(f"rope_transformers_{transformers.__version__}.json")
    lines = ",\n".join(json.dumps(case) for case in cases)
    path.write_text(f'{{"source": {json.dumps(source)}, "cases": [\n{lines}\n]}}\n')
